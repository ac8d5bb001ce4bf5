"""The transform inside other libraries: Kornia and timm."""
