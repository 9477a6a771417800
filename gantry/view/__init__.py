"""The live viewer: a simulation in a browser, drawn there, steered from there."""
