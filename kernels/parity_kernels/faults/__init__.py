"""The planted faults: each module defines FAULTS, incidents of real engines rebuilt inside this one."""
