import hypothesis

hypothesis.settings.register_profile("gantry", derandomize=True, deadline=None)
hypothesis.settings.load_profile("gantry")
