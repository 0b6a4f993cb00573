"""SGLang's models, batches and KV pool at several degrees: what one joint step computes."""
