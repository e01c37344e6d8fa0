"""The deployment loop: training data, runs, searches and promotions."""
