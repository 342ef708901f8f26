/* Python's C interface, as far as it is stable: one build serves all versions from 3.10 on. */
#ifndef FO_LIMITED_API_H
#define FO_LIMITED_API_H

#include <pyconfig.h>

/* A build without the global lock has no stable interface, and a plan relies on the lock. */
#ifdef Py_GIL_DISABLED
#define FO_HAS_PLANS 0
#else
#define FO_HAS_PLANS 1
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030a0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#endif

#endif
