"""`make alerts-check`: every alert seen firing on a real stack, and none while nothing is wrong."""
