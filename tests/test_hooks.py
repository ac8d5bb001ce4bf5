import gc
import threading
import weakref

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.utils.hooks import record

pytestmark = pytest.mark.usefixtures("one_thread")


def model():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 3), nn.Tanh()))


def n_hooks(net):
    return sum(len(module._forward_hooks) for module in net.modules())


def test_inputs_and_outputs_by_name():
    net, x = model(), torch.rand(2, 4)
    with record(net, inputs=["2.0"], outputs=["0", "2"]) as seen:
        assert seen == ({}, {})
        y = net(x)
    assert torch.equal(seen.outputs["0"], net[0](x)) and torch.equal(seen.outputs["2"], y)
    assert torch.equal(seen.inputs["2.0"], net[0](x).relu()) and set(seen.inputs) == {"2.0"}
    assert n_hooks(net) == 0


def test_a_later_forward_replaces_an_earlier_one_and_keep_says_what_is_stored():
    net = model()
    with record(net, outputs=["0", "2"], keep=lambda value: tuple(value.shape)) as seen:
        net(torch.rand(2, 4))
        net(torch.rand(7, 4))
    assert seen.outputs == {"0": (7, 5), "2": (7, 3)}


def test_outputs_come_in_the_order_of_running():
    net = model()
    with record(net, outputs=[name for name, _ in net.named_modules()][::-1]) as seen:
        net(torch.rand(1, 4))
    assert list(seen.outputs) == ["0", "1", "2.0", "2.1", "2", ""]


@pytest.mark.parametrize("where", ["block", "forward"])
def test_hooks_go_after_an_error(where):
    net = model()
    with pytest.raises((KeyError, RuntimeError)), record(net, outputs=["0", "2"]):
        if where == "block":
            raise KeyError("mine")
        net(torch.rand(2, 9))
    assert n_hooks(net) == 0


def test_an_unknown_name_installs_nothing():
    net = model()
    with (
        pytest.raises(ia.InstaAugError, match=r"no submodule '3'; names .*, e.g. 0, 1, 2"),
        record(net, outputs=["0", "3"]),
    ):
        pass
    with pytest.raises(ia.InstaAugError, match=r"no submodule 'x\.0'; .*e\.g\. 0, 2\.0$"), record(net, outputs=["x.0"]):
        pass
    assert n_hooks(net) == 0


def test_nothing_is_kept_alive():
    net = model()
    with record(net, outputs=["0"]) as seen:
        net(torch.rand(2, 4))
    output = weakref.ref(seen.outputs["0"])
    del seen
    gc.collect()
    assert output() is None


def test_threads_that_call_one_model_see_their_own_forwards():
    net, failures = model(), []
    barrier = threading.Barrier(4, timeout=60)

    def work(value):
        try:
            barrier.wait()
            x = torch.full((2, 4), float(value))
            expected = net[0](x)
            for _ in range(200):
                with record(net, inputs=["0"], outputs=["0"]) as seen:
                    net(x)
                if not (torch.equal(seen.inputs["0"], x) and torch.equal(seen.outputs["0"], expected)):
                    failures.append(value)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and n_hooks(net) == 0


def test_a_forward_of_another_thread_is_not_recorded():
    net = model()
    with record(net, outputs=["0"]) as seen:
        thread = threading.Thread(target=net, args=(torch.rand(2, 4),))
        thread.start()
        thread.join()
        assert seen.outputs == {}


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_programs_of_torch_jit_are_named():
    """PyTorch's word was that something is not supported; of a trace, nothing was recorded."""
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.rand(1, 3, 4, 4)
    for program in (torch.jit.script(model), torch.jit.trace(model, images)):
        named = pytest.raises(ia.InstaAugError, match="layer: '0' is a program of torch.jit, which takes no hooks")
        with named, record(program, outputs=["0"]):
            program(images)
