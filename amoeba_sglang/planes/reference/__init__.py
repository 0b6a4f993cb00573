"""The REFERENCE device: what a GPU and its libraries would do, by plain torch on the host.

It shows that calls, addresses and order are right. It says nothing about speed, and nothing about
the arithmetic of a kernel.
"""
