"""Pictures of what was learned. matplotlib is imported when a function is called; every function returns its figure.

One visual language: ink for what is, the accent for what was learned, redder and darker for likelier, grey for the rest;
line styles and positions repeat what colours say.
"""

from ..utils.files import save_figure as save
from .candidates import likeliest_candidates
from .colour import colour_ranges, draw_colour_bars, draw_hue_wheel
from .crops import crop_centres, crop_sizes, draw_crops, likeliest_crops
from .curves import accuracy_against_views, training_curves
from .rotation import draw_rotation, rotation_arcs
from .sheets import contact_sheet, learned_ranges
from .style import ACCENT, FAINT, INK, dark, new_figure
from .undone import put_right

__all__ = [
    "ACCENT",
    "FAINT",
    "INK",
    "accuracy_against_views",
    "colour_ranges",
    "contact_sheet",
    "crop_centres",
    "crop_sizes",
    "dark",
    "draw_colour_bars",
    "draw_crops",
    "draw_hue_wheel",
    "draw_rotation",
    "learned_ranges",
    "likeliest_candidates",
    "likeliest_crops",
    "new_figure",
    "put_right",
    "rotation_arcs",
    "save",
    "training_curves",
]
