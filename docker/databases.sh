# Runs once, when the database volume is empty: a role and a database each for Prefect, MLflow and Optuna.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
  -v prefect="$PREFECT_DB_PASSWORD" -v mlflow="$MLFLOW_DB_PASSWORD" \
  -v optuna="$OPTUNA_DB_PASSWORD" <<'SQL'
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE optuna LOGIN PASSWORD :'optuna';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE optuna OWNER optuna;
REVOKE CONNECT ON DATABASE prefect, mlflow, optuna FROM PUBLIC;
SQL
