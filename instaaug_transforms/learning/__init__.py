"""How augmentations are learned: objectives, entropy control, the loss table and the fit to a frozen classifier."""

from .config import FitConfig, FitResult
from .contrastive import contrastive_credit, contrastive_losses
from .entropy import EntropyConfig, EntropyController
from .fit import fit
from .loss_table import build_loss_table
from .objective import InstaAugObjective
from .recommend import recommend

__all__ = [
    "EntropyConfig",
    "EntropyController",
    "FitConfig",
    "FitResult",
    "InstaAugObjective",
    "build_loss_table",
    "contrastive_credit",
    "contrastive_losses",
    "fit",
    "recommend",
]
