"""A vacuum robot in an apartment, at three levels: wheel speeds, moves between cells, and rooms."""
