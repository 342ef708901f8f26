/* Walks over the user's containers: compare pointers, and look a key up only where the order differs. */
#include "parts.h"

#if FO_HAS_PLANS

static int is_plain_key(PyObject *key)
{
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key);
}

static void skip(const fo_plan *plan, int64_t first, int64_t last)
{
    for (int64_t i = first; i < last; i++)
        plan->leaves[i] = 0;
}

static int64_t leaf_after(const fo_plan *plan, const fo_node *node)
{
    return node->end < plan->node_count ? plan->nodes[node->end].first_leaf : plan->count;
}

static int flatten(const fo_plan *plan, const fo_node *node, PyObject *object);

static int flatten_child(const fo_plan *plan, const fo_node *node, PyObject *child, int is_in_root)
{
    if (is_in_root && plan->wrapper && PyDict_CheckExact(child) && PyDict_Size(child) == 1) {
        PyObject *key, *value;
        Py_ssize_t place = 0;
        PyDict_Next(child, &place, &key, &value);
        if ((uintptr_t)key == plan->wrapper)
            child = value;
    }
    return flatten(plan, node, child);
}

/* Look every key up: the dict has another order, or lacks some. */
static int flatten_by_lookup(const fo_plan *plan, const fo_node *node, PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t place = 0, found = 0;
    while (PyDict_Next(dict, &place, &key, &value))
        if (!is_plain_key(key))
            return 0;
    const fo_node *child = node + 1;
    for (int32_t k = 0; k < node->children; k++, child = plan->nodes + child->end) {
        value = PyDict_GetItemWithError(dict, (PyObject *)child->key);
        if (!value) {
            skip(plan, child->first_leaf, leaf_after(plan, child));
            continue;
        }
        found++;
        if (!flatten(plan, child, value))
            return 0;
    }
    return found == PyDict_Size(dict);
}

static int flatten_dict(const fo_plan *plan, const fo_node *node, PyObject *dict)
{
    const fo_node *child = node + 1;
    PyObject *key, *value;
    Py_ssize_t place = 0;
    int32_t k = 0;
    for (; k < node->children && PyDict_Next(dict, &place, &key, &value); k++, child = plan->nodes + child->end) {
        if ((uintptr_t)key != child->key)
            break;
        if (!flatten(plan, child, value))
            return 0;
    }
    return (k == node->children && PyDict_Size(dict) == k) || flatten_by_lookup(plan, node, dict);
}

static int flatten(const fo_plan *plan, const fo_node *node, PyObject *object)
{
    if (node->kind == FO_LEAF) {
        plan->leaves[node->first_leaf] = object == Py_None ? 0 : (uintptr_t)object;
        return 1;
    }
    if (object == Py_None && node != plan->nodes) {
        skip(plan, node->first_leaf, leaf_after(plan, node));
        return 1;
    }
    if (node->kind == FO_DICT)
        return PyDict_CheckExact(object) && flatten_dict(plan, node, object);
    const int is_list = PyList_CheckExact(object);
    if (!(is_list || PyTuple_CheckExact(object)) ||
        (is_list ? PyList_Size(object) : PyTuple_Size(object)) != node->children)
        return 0;
    const fo_node *child = node + 1;
    for (int32_t k = 0; k < node->children; k++, child = plan->nodes + child->end)
        if (!flatten_child(plan, child, is_list ? PyList_GetItem(object, k) : PyTuple_GetItem(object, k),
                           node == plan->nodes))
            return 0;
    return 1;
}

int fo_flatten(const fo_plan *plan, PyObject *grads)
{
    if (!plan->is_single)
        return flatten(plan, plan->nodes, grads);
    plan->leaves[0] = grads == Py_None ? 0 : (uintptr_t)grads;
    return 1;
}

static int holds_children(const fo_plan *plan, const fo_container *container)
{
    PyObject *object = (PyObject *)container->container;
    const uintptr_t *keys = plan->child_keys + container->first, *children = plan->children + container->first;
    if (container->kind == FO_LIST) {
        if (PyList_Size(object) < container->count)
            return 0;
        for (int64_t k = 0; k < container->count; k++)
            if ((uintptr_t)PyList_GetItem(object, (Py_ssize_t)k) != children[k])
                return 0;
        return 1;
    }
    PyObject *key, *value;
    Py_ssize_t place = 0;
    int64_t k = 0;
    while (k < container->count && PyDict_Next(object, &place, &key, &value) && (uintptr_t)key == keys[k]) {
        if ((uintptr_t)value != children[k])
            return 0;
        k++;
    }
    if (k == container->count)
        return 1;
    /* The user has added other entries, or put them in another order. */
    for (place = 0; PyDict_Next(object, &place, &key, &value);)
        if (!is_plain_key(key))
            return 0;
    for (; k < container->count; k++)
        if ((uintptr_t)PyDict_GetItemWithError(object, (PyObject *)keys[k]) != children[k])
            return 0;
    return 1;
}

int fo_are_in_place(const fo_plan *plan)
{
    for (int64_t k = 0; k < plan->container_count; k++)
        if (!holds_children(plan, &plan->containers[k]))
            return 0;
    return 1;
}

#endif
