"""Django in one file: `gunicorn -w 2 --pythonpath examples django_app:application`."""

from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY="of no use here, and a secret in yours",  # noqa: S106
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    RINGKEEPER={"config": "config.yaml"},
)

from ringkeeper.django import ring, token_required  # noqa: E402 - in a site of files they are apart


def login(_request: Any) -> JsonResponse:
    """To whom knows the password; that is for the app to ask."""
    return JsonResponse({"access_token": ring().sign({"sub": "alice"})})


@token_required
def me(request: Any) -> JsonResponse:
    """Only with a good token."""
    return JsonResponse({"sub": request.claims["sub"]})


urlpatterns = [path("login", login), path("me", me)]
application = get_wsgi_application()
