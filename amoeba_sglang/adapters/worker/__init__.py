"""SGLang's scheduler, extended: an elastic worker."""
