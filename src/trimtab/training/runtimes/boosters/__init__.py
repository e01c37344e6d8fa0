"""Gradient boosting libraries: CatBoost, LightGBM, XGBoost."""
