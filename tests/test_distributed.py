"""Two gloo processes equal one process: gradients of model and φ, λ and baselines."""

import socket

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import instaaug_transforms as ia
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.utils import distributed

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
ESTIMATORS = ("rloo", "reinforce", "critic")
LABELS = torch.tensor([0, 1, 2, 1])
NOISE = torch.rand(3, 1, 4, 2, generator=torch.Generator().manual_seed(2))  # (step, n, B, n_uniforms)


def train(rows: slice, seed: int, estimator: str, wrap=lambda model: model) -> dict[str, torch.Tensor]:
    """Three steps on some rows of the batch; everything that was learned."""
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(["crop", "rotate"], predictor=ia.ConvPredictor(image_size=16))
    with torch.no_grad():
        aug.predictor.heads["crop"].bias.zero_()
    objective = ia.InstaAugObjective(aug, ia.EntropyConfig(rate=0.1), estimator=estimator)
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 3)))
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.1)
    for noise in NOISE:
        # The processes share one batch's noise, so that together they see what one process sees.
        AugmentDistribution._uniform = lambda self, shape, generator, noise=noise: noise[:, rows]
        views, sample = aug.sample(IMAGES[rows])
        per_view = F.cross_entropy(model(views), LABELS[rows], reduction="none")
        optimizer.zero_grad()
        objective(per_view, sample).backward()
        optimizer.step()
    state = {name: t.clone() for name, t in objective.state_dict().items()}
    return state | {f"model.{i}": p.detach().clone() for i, p in enumerate(model.parameters())}


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for estimator in ESTIMATORS:
        # Rank 1 starts from another φ: it must take rank 0's.
        state = train(slice(2 * rank, 2 * rank + 2), seed=rank, estimator=estimator, wrap=DistributedDataParallel)
        save_file(state, f"{folder}/{estimator}-{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, monkeypatch):
    monkeypatch.setattr(AugmentDistribution, "_uniform", AugmentDistribution._uniform)  # put back afterwards
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    for estimator in ESTIMATORS:
        alone = train(slice(0, 4), seed=0, estimator=estimator)
        for rank in range(2):
            state = load_file(tmp_path / f"{estimator}-{rank}.safetensors")
            assert state.keys() == alone.keys()
            for name, tensor in state.items():
                assert torch.allclose(tensor, alone[name].to(tensor), atol=1e-6), (estimator, name)


def test_alone_there_is_nothing_to_agree_on():
    module = nn.Linear(2, 2)
    assert distributed.world_size() == 1 and torch.equal(
        distributed.call_with_mean_gradients(module, torch.ones(2)), module(torch.ones(2))
    )
    assert distributed.all_reduce_mean(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


def late_worker(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    made = {}
    for estimator in ("rloo", "reinforce"):  # before the processes are joined
        aug = ia.LearnedAugment(["turn"])
        made[estimator] = ia.InstaAugObjective(aug, estimator=estimator)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        objective = made["rloo"]
        _, sample = objective.aug.sample(IMAGES)
        with pytest.raises(ia.InstaAugError, match="its processes have different weights"):
            objective(torch.ones(4), sample)
        objective.eval()
        if rank == 0:  # one process tests alone: the other waits for nothing
            objective(torch.ones(4), sample)
        distributed.broadcast(made["reinforce"])  # what DistributedDataParallel does
        _, sample = made["reinforce"].aug.sample(IMAGES)
        made["reinforce"](torch.full((4,), 1.0 + rank), sample, credit=torch.ones(4))
        assert made["reinforce"].logs()["loss"] == 1.5  # of both
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_an_objective_made_before_the_processes_are_joined():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(late_worker, (port,), nprocs=2)


def fit_worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    fitted(seed=rank).save(f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def fitted(seed: int) -> ia.LearnedAugment:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 3)).eval()
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(image_size=16))
    images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    config = ia.FitConfig(epochs=2, batch_size=8, progress=False, entropy={"turn": (0.2, 0.9)})
    ia.fit(aug, classifier, (images, torch.arange(24) % 3), config=config)
    return aug


@pytest.mark.slow
def test_a_fit_begins_with_the_weights_of_the_first_process(tmp_path):
    """Where processes had no common seed, each ended with a φ of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(fit_worker, (port, str(tmp_path)), nprocs=2)
    alone = fitted(seed=0).predictor.state_dict()
    for rank in range(2):
        aug = ia.LearnedAugment.from_pretrained(tmp_path / f"{rank}.safetensors")
        for name, value in aug.predictor.state_dict().items():
            assert torch.allclose(value, alone[name], atol=1e-6), (rank, name)
