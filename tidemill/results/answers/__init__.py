"""What a version has answered already, found by a text's hash: a row that did not change is not computed again."""
