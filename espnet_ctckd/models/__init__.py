"""ESPnet models, and the front-end and encoder that this package registers."""
