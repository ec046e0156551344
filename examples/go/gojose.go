package main

import (
	"errors"
	"time"

	// With modules: github.com/go-jose/go-jose/v4/jwt
	"gopkg.in/square/go-jose.v2/jwt"
)

// withGoJose tells whose token it is, by go-jose.
func withGoJose(jwks *JWKS, text string) (string, error) {
	// From v4 on the algorithms that the ring may have are its second argument.
	token, err := jwt.ParseSigned(text)
	if err != nil {
		return "", err
	}
	header := token.Headers[0]
	key, err := jwks.Key(header.KeyID, header.Algorithm)
	if err != nil {
		return "", err
	}
	var claims jwt.Claims
	if err := token.Claims(key, &claims); err != nil {
		return "", err
	}
	if claims.Expiry == nil {
		return "", errors.New("it never expires")
	}
	expected := jwt.Expected{Time: time.Now()}
	return claims.Subject, claims.ValidateWithLeeway(expected, clockSkew)
}
