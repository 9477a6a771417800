"""The vacuum robot in its apartment, at three levels of control."""
