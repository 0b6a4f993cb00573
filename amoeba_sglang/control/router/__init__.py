"""The router: SGLang's data-parallel controller with layouts, transformations and a guard."""
