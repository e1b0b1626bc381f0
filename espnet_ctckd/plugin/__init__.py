"""The plug-in into ESPnet: model, task, trainer and data."""
