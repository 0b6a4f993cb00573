"""A discrete-event simulator of Amoeba hosts; everything that it prints is SIMULATED."""
