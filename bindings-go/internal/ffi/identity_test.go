package ffi

import (
	"errors"
	"strings"
	"testing"
)

func TestAnotherLibraryIsRefusedByWhatDiffers(t *testing.T) {
	for says, change := range map[string]func(*identity){
		"contract version is 31":         func(i *identity) { i.contract = 31 },
		"functions call, submit have":    func(i *identity) { i.checks["call"]++; i.checks["submit"] = 0 },
		`version "0.2.0/1"`:              func(i *identity) { i.abi = "0.2.0/1" },
		"functions try_drain have other": func(i *identity) { delete(i.checks, "try_drain") },
	} {
		found := wanted()
		change(&found)
		err := verify(found)
		var refused *Error
		if !errors.As(err, &refused) || refused.Code != "config_invalid" || !strings.Contains(refused.Message, says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if err := verify(wanted()); err != nil {
		t.Error(err)
	}
}

func TestTheLibraryThatIsLinkedIsTheOneOfThisPackage(t *testing.T) {
	if err := Load(); err != nil {
		t.Error(err)
	}
}
