"""What joins control and planes to SGLang; the only package that imports it."""
