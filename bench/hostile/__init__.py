"""A thousand hostile requests beside ordinary streams and transformations."""
