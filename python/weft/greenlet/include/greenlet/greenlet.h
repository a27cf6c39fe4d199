/*
 * The C API of the greenlet package, as provided by weft.
 *
 * Binary contract, the same for greenlet 1.x to 3.x and weft:
 *   - a greenlet object is a PyObject head followed by three pointers; subclasses written in C
 *     may embed the struct, and must leave the three pointers alone;
 *   - `greenlet._C_API` is a capsule named "greenlet._C_API" around a table of 12 pointers.
 *
 * Call PyGreenlet_Import() once in the module's initialisation, with the GIL held; it leaves an
 * exception set if it fails, and _PyGreenlet_API is then NULL. The table is private to the file
 * that includes this header. Every other macro needs the table and the GIL. "New reference"
 * results are NULL with an exception set on failure.
 */
#ifndef Py_GREENLETOBJECT_H
#define Py_GREENLETOBJECT_H

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of the C API, not of the package; it stays as it is. */
#define GREENLET_VERSION "1.0.0"

#ifndef GREENLET_MODULE
#define implementation_ptr_t void *
#endif

typedef struct _greenlet {
    PyObject_HEAD
    PyObject *weakreflist;
    PyObject *dict;
    implementation_ptr_t pimpl;
} PyGreenlet;

/* Places in the table. */
#define PyGreenlet_Type_NUM 0
#define PyExc_GreenletError_NUM 1
#define PyExc_GreenletExit_NUM 2
#define PyGreenlet_New_NUM 3
#define PyGreenlet_GetCurrent_NUM 4
#define PyGreenlet_Throw_NUM 5
#define PyGreenlet_Switch_NUM 6
#define PyGreenlet_SetParent_NUM 7
#define PyGreenlet_MAIN_NUM 8
#define PyGreenlet_STARTED_NUM 9
#define PyGreenlet_ACTIVE_NUM 10
#define PyGreenlet_GET_PARENT_NUM 11
#define PyGreenlet_API_pointers 12

/* True for a greenlet or an instance of a subclass; NULL is allowed. */
#define PyGreenlet_Check(op) ((op) && PyObject_TypeCheck((op), &PyGreenlet_Type))

#ifndef GREENLET_MODULE

static void **_PyGreenlet_API = NULL;

#define PyGreenlet_Import() \
    { _PyGreenlet_API = (void **)PyCapsule_Import("greenlet._C_API", 0); }

/* The class greenlet.greenlet, as an lvalue of type PyTypeObject. */
#define PyGreenlet_Type (*(PyTypeObject *)_PyGreenlet_API[PyGreenlet_Type_NUM])

/* The exceptions greenlet.error and greenlet.GreenletExit, borrowed. */
#define PyExc_GreenletError ((PyObject *)_PyGreenlet_API[PyExc_GreenletError_NUM])
#define PyExc_GreenletExit ((PyObject *)_PyGreenlet_API[PyExc_GreenletExit_NUM])

/* greenlet(run, parent); either may be NULL. New reference. */
#define PyGreenlet_New \
    (*(PyGreenlet * (*)(PyObject *run, PyGreenlet *parent)) \
        _PyGreenlet_API[PyGreenlet_New_NUM])

/* getcurrent(). New reference. */
#define PyGreenlet_GetCurrent \
    (*(PyGreenlet * (*)(void)) _PyGreenlet_API[PyGreenlet_GetCurrent_NUM])

/* self.throw(typ, val, tb); val and tb may be NULL. New reference. */
#define PyGreenlet_Throw \
    (*(PyObject * (*)(PyGreenlet *self, PyObject *typ, PyObject *val, PyObject *tb)) \
        _PyGreenlet_API[PyGreenlet_Throw_NUM])

/* self.switch(*args, **kwargs); args is a tuple, kwargs a dict, either may be NULL.
   New reference. */
#define PyGreenlet_Switch \
    (*(PyObject * (*)(PyGreenlet *self, PyObject *args, PyObject *kwargs)) \
        _PyGreenlet_API[PyGreenlet_Switch_NUM])

/* self.parent = parent. 0, or -1 with an exception set. */
#define PyGreenlet_SetParent \
    (*(int (*)(PyGreenlet *self, PyGreenlet *parent)) \
        _PyGreenlet_API[PyGreenlet_SetParent_NUM])

/* self.parent. New reference, or NULL without an exception where there is none. */
#define PyGreenlet_GetParent \
    (*(PyGreenlet * (*)(PyGreenlet *self)) _PyGreenlet_API[PyGreenlet_GET_PARENT_NUM])

/* Older spelling of the same. */
#define PyGreenlet_GET_PARENT PyGreenlet_GetParent

/* Is it its thread's main greenlet; has it been started; is it started and not yet dead? */
#define PyGreenlet_MAIN (*(int (*)(PyGreenlet *self)) _PyGreenlet_API[PyGreenlet_MAIN_NUM])
#define PyGreenlet_STARTED (*(int (*)(PyGreenlet *self)) _PyGreenlet_API[PyGreenlet_STARTED_NUM])
#define PyGreenlet_ACTIVE (*(int (*)(PyGreenlet *self)) _PyGreenlet_API[PyGreenlet_ACTIVE_NUM])

#endif /* GREENLET_MODULE */

#ifdef __cplusplus
}
#endif

#endif /* Py_GREENLETOBJECT_H */
