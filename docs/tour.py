# %% [markdown]
# # A tour: fit, look, validate, train
#
# Digits, turned by quarters. A small classifier knows upright ones; we teach a transform to put the others right, without labels,
# look at it, check it on digits that nothing was fitted on, and then train a classifier together with its augmentation.
#
# What is printed and drawn below comes from the run that made this page. Download it as `tour.ipynb`, or run `python docs/tour.py`: about a
# minute on a CPU.

# %%
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import instaaug_transforms as ia

torch.manual_seed(0)
digits = load_digits()
images = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, 32, mode="bilinear")  # (1797, 1, 32, 32)
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(images))
train, fitted, test = order[:900], order[900:1500], order[1500:]

# %% [markdown]
# ## A classifier of upright digits

# %%
layers = torch.nn.Conv2d(1, 16, 5, 2), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2), torch.nn.ReLU()
classifier = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.LazyLinear(10))
classifier(images[:1])  # LazyLinear learns its size
optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
for _ in range(12):
    for index in train[torch.randperm(len(train))].split(50):
        optimizer.zero_grad()
        F.cross_entropy(classifier(images[index]), labels[index]).backward()
        optimizer.step()
classifier.eval()


def accuracy(model, images, labels):
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).float().mean().item()


turned = torch.stack(
    [image.rot90(k, (-2, -1)) for k, image in zip(torch.randint(4, (len(test),)).tolist(), images[test], strict=True)]
)
print(
    f"upright {accuracy(classifier, images[test], labels[test]):.1f} %, turned {accuracy(classifier, turned, labels[test]):.1f} %"
)

# %% [markdown]
# ## Fit: the transform learns which way is up
#
# The target is the classifier's own answer on the digit as it was. Callbacks see every epoch.

# %%
aug = ia.LearnedAugment(["turn"], in_channels=1, predictor=ia.ConvPredictor(image_size=32))
epochs = []
config = ia.FitConfig(epochs=15, nuisance_draws=2, held_out=0.25, progress=False)
result = ia.fit(aug, classifier, images[fitted], nuisance=["turn"], config=config, callbacks=[epochs.append])
print(result.report)

# %% [markdown]
# ## Look
#
# The image, then its likeliest turns with their probabilities.

# %%
figure = ia.viz.likeliest_candidates(aug, turned[:4], k=3)
figure

# %% [markdown]
# ## Validate, on digits that nothing has seen

# %%
model = ia.TTAModel.recommended(classifier, aug, result)
print(f"recommended: {result.report.recommended.name}, K = {model.n_views}")
print(f"turned, put right: {accuracy(model, turned, labels[test]):.1f} %")
print(f"upright: {accuracy(model, images[test], labels[test]):.1f} %")

# %% [markdown]
# ## Train a model and its augmentation together
#
# How far may a digit turn, and still be itself? Ranges and classifier learn in one loop.

# %%
learner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
ranges = ia.LearnedAugment(["rotate"], in_channels=1, predictor=ia.ConvPredictor(image_size=32))
objective = ia.InstaAugObjective(ranges, entropy=ia.EntropyConfig(rate=0.02))
optimizer = torch.optim.AdamW([*learner.parameters(), *objective.parameters()], lr=1e-3)
history = []
for _ in range(3):
    for index in train[torch.randperm(len(train))].split(50):
        views, sample = ranges.sample(images[index])
        optimizer.zero_grad()
        objective(F.cross_entropy(learner(views), labels[index], reduction="none"), sample).backward()
        optimizer.step()
    history.append(objective.logs())
print(history[-1])

# %%
figure = ia.viz.rotation_arcs(ranges.eval(), images[test[:4]])
figure
