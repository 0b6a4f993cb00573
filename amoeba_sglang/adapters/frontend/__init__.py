"""SGLang's HTTP front end and tokenizer manager, extended."""
