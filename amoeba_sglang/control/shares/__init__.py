"""Who has which KV slots of an instance: pure rules over integers, without torch and SGLang."""
