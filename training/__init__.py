"""Training: Lightning modules, data, losses, recipes. Nothing here is needed to encode or decode."""
