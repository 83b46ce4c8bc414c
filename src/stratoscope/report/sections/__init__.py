"""The sections of the HTML page: each module turns one part of a record into markup."""
