"""Libraries for gradient boosting: CatBoost, LightGBM, XGBoost."""
