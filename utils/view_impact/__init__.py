"""What `test_view_angle_impact.py` measures, draws and says: how much a model uses the view angles."""
