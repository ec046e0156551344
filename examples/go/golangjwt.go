package main

import (
	"errors"
	"time"

	// With modules: github.com/golang-jwt/jwt/v5
	"github.com/golang-jwt/jwt"
)

// withGolangJWT tells whose token it is, by golang-jwt.
func withGolangJWT(jwks *JWKS, text string) (string, error) {
	var claims jwt.RegisteredClaims
	// Its own look at the times knows no leeway before v5: there it is jwt.WithLeeway(clockSkew) and
	// jwt.WithExpirationRequired(), and no more is needed. Here they are looked at below.
	parser := jwt.NewParser(jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(text, &claims, func(token *jwt.Token) (any, error) {
		kid, _ := token.Header["kid"].(string)
		return jwks.Key(kid, token.Method.Alg())
	})
	if err != nil {
		return "", err
	}
	if !claims.VerifyExpiresAt(time.Now().Add(-clockSkew), true) {
		return "", errors.New("it has expired, or never does")
	}
	if later := time.Now().Add(clockSkew); !claims.VerifyNotBefore(later, false) ||
		!claims.VerifyIssuedAt(later, false) {
		return "", errors.New("it is from the future")
	}
	return claims.Subject, nil
}
