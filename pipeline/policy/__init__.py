"""From network outputs to an action."""
