"""The page on which a person sees what distillation did."""
