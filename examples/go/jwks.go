package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
	"time"

	// With modules: github.com/go-jose/go-jose/v4
	jose "gopkg.in/square/go-jose.v2"
)

// clockSkew is that of the ring.
const clockSkew = 60 * time.Second

// JWKS is the ring's public keys, by kid.
type JWKS struct {
	url  string
	keys atomic.Value // of map[string]jose.JSONWebKey
}

// Follow fetches the keys, and from then on in the background: no request waits for them, and while
// the daemon is away, they stay as they were. maxAge is jwks_max_age of the ring, or less: so long a
// revoked key is still believed here.
//
// An unknown kid is no reason to ask anew: a key is public for longer than that before it signs.
func Follow(url string, maxAge time.Duration) (*JWKS, error) {
	jwks := &JWKS{url: url}
	if err := jwks.fetch(); err != nil {
		return nil, err
	}
	go func() {
		for range time.Tick(maxAge / 2) {
			if err := jwks.fetch(); err != nil {
				log.Print("the JWKS cannot be had: ", err)
			}
		}
	}()
	return jwks, nil
}

// Key is that of this name, if it has this algorithm.
func (jwks *JWKS) Key(kid, alg string) (any, error) {
	key, isKnown := jwks.keys.Load().(map[string]jose.JSONWebKey)[kid]
	if !isKnown {
		return nil, fmt.Errorf("%q: no such key", kid)
	}
	if key.Algorithm != alg {
		return nil, fmt.Errorf("%q: is a key for %s, not for %q", kid, key.Algorithm, alg)
	}
	return key.Key, nil
}

func (jwks *JWKS) fetch() error {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(jwks.url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&set); err != nil {
		return err
	}
	keys := map[string]jose.JSONWebKey{}
	for _, key := range set.Keys {
		keys[key.KeyID] = key
	}
	jwks.keys.Store(keys)
	return nil
}
