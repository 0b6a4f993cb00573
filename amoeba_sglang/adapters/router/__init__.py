"""SGLang's data-parallel controller, driven by the router's desk."""
