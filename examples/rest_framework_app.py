"""Django REST framework: `gunicorn -w 2 --pythonpath examples rest_framework_app:application`."""

from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    SECRET_KEY="of no use here, and a secret in yours",  # noqa: S106
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["rest_framework"],
    RINGKEEPER={"config": "config.yaml"},
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["ringkeeper.rest_framework.RingAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "UNAUTHENTICATED_USER": None,  # there is no database of users here
    },
)
django.setup()

from rest_framework.decorators import api_view, permission_classes  # noqa: E402 - they want settings
from rest_framework.permissions import AllowAny  # noqa: E402
from rest_framework.response import Response  # noqa: E402

from ringkeeper.django import ring  # noqa: E402


@api_view(["POST"])
@permission_classes([AllowAny])
def login(_request: Any) -> Any:
    """To whom knows the password; that is for the app to ask."""
    return Response({"access_token": ring().sign({"sub": "alice"})})


@api_view()
def me(request: Any) -> Any:
    """Only with a good token; `request.auth` has the claims."""
    return Response({"sub": request.user.id})


urlpatterns = [path("login", login), path("me", me)]
application = get_wsgi_application()
