/* The other files' functions as operations that a compiled layer calls (`generate.compiled`): straight, for the way
 * through Python costs 12 µs, and a step makes a hundred of these calls.
 *
 * AOTInductor calls `aoti_torch_cpu_NAME` for `liquid::NAME`, as it does for PyTorch's own operations. What is used of
 * PyTorch is its C interface (torch/csrc/inductor/aoti_torch/c/shim.h), which stays as it is between versions. Each
 * returns 0, or 1 where it cannot.
 */
#include <stdint.h>
#include <string.h>

int few_rows(const void *x, const void *weight, const float *scale, void *y, int64_t rows, int64_t in, int64_t out,
             int size, int x_bfloat16, int y_bfloat16, int threads);
int attend(const void *q, const void *keys, const void *values, const void *mask, void *y, int64_t rows, int64_t heads,
           int64_t groups, int64_t tokens, int64_t columns, int64_t dim, const int64_t strides[4], double scale,
           int bfloat16, int threads);

typedef struct AtenTensorOpaque *Tensor;
int32_t aoti_torch_dtype_bfloat16(void), aoti_torch_dtype_float32(void), aoti_torch_device_type_cpu(void);
int32_t aoti_torch_get_data_ptr(Tensor, void **), aoti_torch_get_dtype(Tensor, int32_t *);
int32_t aoti_torch_get_dim(Tensor, int64_t *), aoti_torch_get_sizes(Tensor, int64_t **);
int32_t aoti_torch_get_strides(Tensor, int64_t **);
int32_t aoti_torch_empty_strided(int64_t dim, const int64_t *sizes, const int64_t *strides, int32_t dtype,
                                 int32_t device, int32_t index, Tensor *);

#define DIMENSIONS 4

typedef struct {
    void *data;
    int64_t dim, *sizes, *strides;
    int32_t dtype;
} View;

static int look(Tensor tensor, View *view) {
    return aoti_torch_get_data_ptr(tensor, &view->data) || aoti_torch_get_dim(tensor, &view->dim) ||
           aoti_torch_get_sizes(tensor, &view->sizes) || aoti_torch_get_strides(tensor, &view->strides) ||
           aoti_torch_get_dtype(tensor, &view->dtype) || view->dim < 1 || view->dim > DIMENSIONS;
}

static int is_contiguous(const View *view) {
    int64_t stride = 1;
    for (int64_t i = view->dim - 1; i >= 0; stride *= view->sizes[i--])
        if (view->sizes[i] != 1 && view->strides[i] != stride) return 0;
    return 1;
}

/* A new tensor, and where its numbers lie. */
static int make(int64_t dim, const int64_t *sizes, int32_t dtype, Tensor *tensor, void **data) {
    int64_t strides[DIMENSIONS];
    for (int64_t i = dim - 1, stride = 1; i >= 0; stride *= sizes[i--]) strides[i] = stride;
    return aoti_torch_empty_strided(dim, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, tensor) ||
           aoti_torch_get_data_ptr(*tensor, data);
}

/* As `Weight` of few_rows.py. */
typedef struct {
    const void *blocks; /* NULL once they are gone */
    const float *scale;
    int64_t in, out, size;
} Weight;

/* x (…, in) of float32 or bfloat16; `place` holds the address of a `Weight`. A new (…, out) of x's type. */
int32_t aoti_torch_cpu_few_rows(Tensor x, Tensor place, int64_t out, int64_t threads, Tensor *result) {
    View from;
    void *address, *to;
    int64_t sizes[DIMENSIONS], rows = 1;
    if (look(x, &from) || !is_contiguous(&from) || aoti_torch_get_data_ptr(place, &address)) return 1;
    const Weight *weight = *(const Weight **)address;
    const int bfloat16 = from.dtype == aoti_torch_dtype_bfloat16();
    if (!bfloat16 && from.dtype != aoti_torch_dtype_float32()) return 1;
    if (!weight->blocks || weight->out != out || weight->in != from.sizes[from.dim - 1]) return 1;
    memcpy(sizes, from.sizes, from.dim * sizeof(int64_t));
    sizes[from.dim - 1] = out;
    for (int64_t i = 0; i < from.dim - 1; i++) rows *= sizes[i];
    if (make(from.dim, sizes, from.dtype, result, &to)) return 1;
    return few_rows(from.data, weight->blocks, weight->scale, to, rows, weight->in, out, (int)weight->size, bfloat16,
                    bfloat16, (int)threads);
}

/* See `attend` of attention.py. */
int32_t aoti_torch_cpu_attend(Tensor q, Tensor keys, Tensor values, Tensor mask, double scale, int64_t threads,
                              Tensor *result) {
    View of_q, k, v, seen;
    void *to;
    if (look(q, &of_q) || look(keys, &k) || look(values, &v) || look(mask, &seen)) return 1;
    if (of_q.dim != 4 || k.dim != 4 || v.dim != 4 || !is_contiguous(&of_q) || !is_contiguous(&seen)) return 1;
    const int64_t *sizes = of_q.sizes, rows = sizes[0], heads = sizes[1], tokens = sizes[2], dim = sizes[3];
    const int64_t groups = k.sizes[1], columns = k.sizes[2];
    if (memcmp(k.sizes, v.sizes, sizeof(int64_t[4])) || k.sizes[0] != rows || k.sizes[3] != dim) return 1;
    if (seen.dim != 4 || seen.sizes[0] != rows || seen.sizes[2] != tokens || seen.sizes[3] != columns) return 1;
    if (k.dtype != of_q.dtype || v.dtype != of_q.dtype || dim % 32 || dim > 256 || heads % groups) return 1;
    if (k.strides[3] != 1 || k.strides[2] != dim || v.strides[3] != 1 || v.strides[2] != dim) return 1;
    const int64_t shape[] = {rows, tokens, heads, dim};
    const int64_t strides[] = {k.strides[0], k.strides[1], v.strides[0], v.strides[1]};
    if (make(4, shape, of_q.dtype, result, &to)) return 1;
    return attend(of_q.data, k.data, v.data, seen.data, to, rows, heads, groups, tokens, columns, dim,
                  strides, scale, of_q.dtype == aoti_torch_dtype_bfloat16(), (int)threads);
}
