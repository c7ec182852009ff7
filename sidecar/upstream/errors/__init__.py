"""Classification of upstream failures."""
