// A web app that verifies tokens by the daemon's JWKS: `go run . golang-jwt 8001`, or `go-jose`.
//
// Copy jwks.go and the file of the library that you use.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

var libraries = map[string]func(*JWKS, string) (string, error){
	"go-jose":    withGoJose,
	"golang-jwt": withGolangJWT,
}

func main() {
	if len(os.Args) != 3 || libraries[os.Args[1]] == nil {
		log.Fatal("name a library and a port: go-jose 8001, or golang-jwt 8001")
	}
	verify, port := libraries[os.Args[1]], os.Args[2]
	seconds, err := strconv.Atoi(setting("JWKS_MAX_AGE", "300"))
	if err != nil {
		log.Fatal("JWKS_MAX_AGE: ", err)
	}
	url := setting("JWKS_URL", "http://127.0.0.1:9465/.well-known/jwks.json")
	jwks, err := Follow(url, time.Duration(seconds)*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		bearer := strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer ")
		subject, err := verify(jwks, bearer)
		if err != nil {
			log.Print("refused: ", err)
			http.Error(response, "invalid token", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(response, "hello %s", subject)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
