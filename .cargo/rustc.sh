#!/bin/sh
# Cargo runs each compiler through this (build.rustc-wrapper). What is fully optimised is laid out by a profile of the gateway
# at work, profile/hooklatch.profdata, where the compiler is the very one that the profile is of: others give functions
# other names. HOOKLATCH_PROFILE_INTO=FOLDER builds a gateway that counts for a new profile instead (scripts/profile.sh).
case " $* " in
*" opt-level=3 "*) ;;
*) exec "$@" ;;
esac
profile=${0%/*}/profile
if [ -n "${HOOKLATCH_PROFILE_INTO:-}" ]; then
    exec "$@" "-Cprofile-generate=$HOOKLATCH_PROFILE_INTO"
fi
if [ "$("$1" -vV)" = "$(cat "$profile/rustc")" ]; then
    # What has changed since is compiled without it, and need not be said.
    exec "$@" "-Cprofile-use=$profile/hooklatch.profdata" -Cllvm-args=-no-pgo-warn-mismatch
fi
exec "$@"
