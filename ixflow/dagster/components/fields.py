"""What the fields of several components are made of: secrets, automation, retries."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import dagster as dg

from ixflow.dagster.automation import on_change
from ixflow.errors import ValidationError
from ixflow.secrets import SECRET_KEYS

__all__ = [
    "Automation",
    "BucketOptions",
    "Connection",
    "SecretText",
    "SecretUrl",
    "on_change_scope",
    "retries",
    "shown",
]

_ENVIRONMENT = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")


def shown(description: str) -> dg.Resolver:
    """Describe a field in the schema that ``dg`` shows, without changing how it is read."""
    made: dg.Resolver = dg.Resolver.default(description=description)
    return made


def _later(raw: Any) -> dg.EnvVar | None:
    """Name the environment variable that is a field's whole value; None: it is something else."""
    found = _ENVIRONMENT.fullmatch(raw.strip()) if isinstance(raw, str) else None
    return dg.EnvVar(found[1]) if found else None


def _connection(context: dg.ResolutionContext, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read a connection or a bucket's options: secrets stay names of variables until a run."""
    return {key: _part(context.at_path(key), key, value) for key, value in raw.items()}


def _part(context: dg.ResolutionContext, key: str, raw: Any) -> Any:
    variable = _later(raw)
    if variable is not None and any(word in key.lower() for word in SECRET_KEYS):
        return variable
    value = context.resolve_value(raw)
    if variable is not None and value is None:
        name = variable.env_var_name
        msg = f"the environment variable {name} is not set; {key} is read from it"
        raise ValidationError(msg, argument=key, variable=name)
    return value


def _secret_url(context: dg.ResolutionContext, raw: str) -> str:
    """Read a URL: one that holds a password has to be a variable, or the UI would show it."""
    variable = _later(raw)
    if variable is not None:
        return variable
    url = str(context.resolve_value(raw, as_type=str))
    if re.search(r"://[^/@]*:[^/]*@|(?i:passw)", url):
        msg = (
            "url holds a password, which Dagster would show; put the whole URL into an environment "
            "variable and say url: '{{ env.WAREHOUSE_URL }}'"
        )
        raise ValidationError(msg, argument="url")
    return url


def _secret_text(context: dg.ResolutionContext, raw: Any) -> dg.EnvVar:
    """Read a secret: only the name of its variable, so that no file holds it."""
    del context
    variable = _later(raw)
    if variable is None:
        msg = "mask_salt is a secret; put it into an environment variable: '{{ env.MASK_SALT }}'"
        raise ValidationError(msg, argument="mask_salt")
    return variable


def _condition(context: dg.ResolutionContext, raw: Any) -> Any:
    condition = context.resolve_value(raw)
    if condition is None or isinstance(condition, dg.AutomationCondition):
        return condition
    msg = (
        f"automation_condition is {condition!r}; say '{{{{ on_change }}}}' or "
        f"'{{{{ dg.AutomationCondition.eager() }}}}'"
    )
    raise ValidationError(msg, argument="automation_condition")


def retries(times: int | None) -> dg.RetryPolicy | None:
    """Give the policy that tries a step again so many times, later each time."""
    if times is None:
        return None
    return dg.RetryPolicy(max_retries=times, delay=5, backoff=dg.Backoff.EXPONENTIAL)


def on_change_scope() -> dict[str, Any]:
    """Give what templates of the components know besides Dagster's own names."""
    return {"on_change": on_change()}


Automation = Annotated[
    Any,
    dg.Resolver(
        _condition,
        model_field_type=str,
        inject_before_resolve=False,
        description="when the assets run by themselves: '{{ on_change }}', or a condition of "
        "Dagster as '{{ dg.AutomationCondition.on_cron(\"@daily\") }}'",
    ),
]
Connection = Annotated[
    dict[str, Any],
    dg.Resolver(
        _connection,
        model_field_type=dict,
        inject_before_resolve=False,
        description="host, port, database, user, password; or connection_string; for a database "
        "file only database, its path",
    ),
]
BucketOptions = Annotated[
    dict[str, Any],
    dg.Resolver(
        _connection,
        model_field_type=dict,
        inject_before_resolve=False,
        description="for a bucket, what the environment does not say",
    ),
]
SecretText = Annotated[
    Any,
    dg.Resolver(
        _secret_text,
        model_field_type=str,
        inject_before_resolve=False,
        description="a secret that goes into hashes of masked columns: '{{ env.MASK_SALT }}'",
    ),
]
SecretUrl = Annotated[
    Any,
    dg.Resolver(
        _secret_url,
        model_field_type=str,
        inject_before_resolve=False,
        description="SQLAlchemy URL with its driver; with a password as '{{ env.WAREHOUSE_URL }}'",
    ),
]
