"""ESPnet's models, and what is registered beside its own."""
