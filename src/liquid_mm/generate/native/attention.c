/* Attention of tokens to what their rows hold: softmax(q Kᵀ · scale) V, each token of each head on its own.
 *
 * What a token gives depends on what it sees and on nothing else: not on the tokens and rows beside it, nor on how many
 * columns the longest row reads. PyTorch's kernel sums in another order for other numbers of columns, and in bfloat16 a
 * picture then differs with the company it is drawn in. It also spends time on columns that are masked.
 *
 * Sums are float32. Of bfloat16, even and odd elements are kept apart, as they come out of a word of two.
 */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float floats __attribute__((vector_size(64))); /* 16 of them */
typedef uint32_t words __attribute__((vector_size(64)));

#define WIDE 16
#define CHUNK 32 /* elements at a time: a vector of bfloat16, two of float32 */
#define MOST 256 /* elements of a head */
#define HEADS 4  /* whose sums fit into the registers */
#define AHEAD 2048 /* bytes: what is read later is asked for early */
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    const char *q, *keys, *values; /* (rows, heads, tokens, dim), and (rows, groups, columns, dim) twice */
    const uint8_t *mask;           /* (rows, tokens, columns): whether it is seen; what is seen lies together */
    char *y;                       /* (rows, tokens, heads, dim) */
    int64_t rows, heads, groups, tokens, columns, dim;
    int64_t strides[4];            /* in elements: keys' of a row and of a group, then values' */
    float scale;
} Attention;

/* 32 elements as two vectors. */
INLINE void load(floats to[2], const char *from, const int size) {
    if (size == 4) {
        memcpy(to, from, 2 * sizeof(floats));
    } else {
        words both;
        memcpy(&both, from, sizeof(both));
        to[0] = (floats)(both << 16), to[1] = (floats)(both & 0xffff0000);
    }
}

INLINE words rounded(floats v) {
    words bits = (words)v, none = (words)(v != v);
    return ((bits + (((bits >> 16) & 1) + 0x7fff)) & ~none) | (none & 0x7fc00000);
}

INLINE void store(char *to, floats even, floats odd, const int size) {
    if (size == 4) {
        memcpy(to, &even, sizeof(even)), memcpy(to + sizeof(even), &odd, sizeof(odd));
    } else {
        words both = (rounded(even) >> 16) | (rounded(odd) & 0xffff0000);
        memcpy(to, &both, sizeof(both));
    }
}

/* e^x for x ≤ 0, to 2 units in the last place: x = n ln 2 + r, and a polynomial of r (Cephes). */
INLINE floats power(floats x) {
    x = (floats)_mm512_max_ps(_mm512_set1_ps(-150), (__m512)x); /* NaN stays, as it is the second */
    const __m512 n = _mm512_roundscale_ps((__m512)(x * 1.44269504f), 0);
    const floats r = (x - (floats)n * 0.693359375f) + (floats)n * 2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (floats)_mm512_scalef_ps((__m512)(p * r * r + r + 1.0f), n);
}

/* Sums of 16 vectors, one in each place. */
INLINE floats sums_of(floats v[WIDE]) {
#pragma GCC unroll 4
    for (int half = WIDE / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) {
            words low, high;
            for (int j = 0; j < WIDE; j++) {
                const int at = j / half % 2, inside = j / (2 * half) * 2 * half + j % half;
                low[j] = inside + at * WIDE, high[j] = inside + half + at * WIDE;
            }
            const __m512 a = (__m512)v[i], b = (__m512)v[i + half];
            v[i] = (floats)_mm512_permutex2var_ps(a, (__m512i)low, b) +
                   (floats)_mm512_permutex2var_ps(a, (__m512i)high, b);
        }
    return v[0];
}

/* `count` scores, not more than 16; the others are -inf. */
INLINE floats scores_of(const Attention *p, const char *keys, const floats *q, const int64_t count, const int size) {
    floats sums[WIDE];
    for (int c = 0; c < WIDE; c++) sums[c] = (floats){0};
    for (int64_t c = 0; c < count; c++)
        for (int64_t d = 0; d < p->dim; d += CHUNK) {
            const char *at = keys + (c * p->dim + d) * size;
            floats k[2];
            load(k, at, size);
            __builtin_prefetch(at + AHEAD);
            sums[c] += k[0] * q[d / WIDE];
            sums[c] += k[1] * q[d / WIDE + 1];
        }
    floats found = sums_of(sums) * p->scale;
    for (int64_t c = count; c < WIDE; c++) found[c] = -INFINITY;
    return found;
}

/* Values of `count` columns times the weights of `heads` heads, 16 · `vectors` elements from `at` on. */
INLINE void weighed(const Attention *p, const char *at, const float *weights, const int64_t room, const int64_t count,
                    floats (*sums)[MOST / WIDE], const int heads, const int vectors, const int size) {
    floats here[HEADS][4];
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < vectors; j++) here[h][j] = (floats){0};
    for (int64_t c = 0; c < count; c++, at += p->dim * size) {
        floats v[4];
        for (int j = 0; j < vectors; j += 2) {
            load(v + j, at + j * WIDE * size, size);
            __builtin_prefetch(at + j * WIDE * size + AHEAD);
        }
        for (int h = 0; h < heads; h++)
            for (int j = 0; j < vectors; j++) here[h][j] += v[j] * weights[h * room * WIDE + c];
    }
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < vectors; j++) sums[h][j] = here[h][j];
}

/* One token of `heads` heads of one group, from `head` on. Each has `room` vectors of `scores` for its columns. */
INLINE void some_heads(const Attention *p, int64_t row, int64_t token, int64_t head, floats *scores, const int64_t room,
                       const int heads, const int size) {
    const int64_t group = head / (p->heads / p->groups), chunks = p->dim / WIDE;
    const uint8_t *mask = p->mask + (row * p->tokens + token) * p->columns;
    int64_t start = 0, end = p->columns;
    while (start < end && !mask[start]) start++;
    while (end > start && !mask[end - 1]) end--;
    const int64_t *strides = p->strides, skip = start * p->dim, count = end - start;
    const char *keys = p->keys + (row * strides[0] + group * strides[1] + skip) * size;
    const char *values = p->values + (row * strides[2] + group * strides[3] + skip) * size;
    floats q[HEADS][MOST / WIDE], most[HEADS];
    float share[HEADS];
    for (int h = 0; h < heads; h++) {
        most[h] = (floats){0} - INFINITY;
        const char *from = p->q + ((row * p->heads + head + h) * p->tokens + token) * p->dim * size;
        for (int64_t i = 0; i < chunks; i += 2) load(q[h] + i, from + i * WIDE * size, size);
    }
    for (int64_t c = 0; c < count; c += WIDE) {
        const int64_t left = count - c;
        const char *at = keys + c * p->dim * size;
        for (int h = 0; h < heads; h++) {
            const floats found = left < WIDE ? scores_of(p, at, q[h], left, size) : scores_of(p, at, q[h], WIDE, size);
            scores[h * room + c / WIDE] = found;
            most[h] = (floats)_mm512_max_ps((__m512)most[h], (__m512)found);
        }
    }
    for (int h = 0; h < heads; h++) {
        floats *of_head = scores + h * room, whole = {0};
        const float top = _mm512_reduce_max_ps((__m512)most[h]);
        for (int64_t c = 0; c < count; c += WIDE) whole += of_head[c / WIDE] = power(of_head[c / WIDE] - top);
        const float sum = _mm512_reduce_add_ps((__m512)whole);
        share[h] = count ? 1 / sum : 0;
    }
    floats sums[HEADS][MOST / WIDE];
    for (int64_t i = 0; i < chunks; i += 4) {
        floats (*to)[MOST / WIDE] = (floats (*)[MOST / WIDE])(sums[0] + i);
        const char *at = values + i * WIDE * size;
        if (chunks - i < 4) weighed(p, at, (const float *)scores, room, count, to, heads, 2, size);
        else weighed(p, at, (const float *)scores, room, count, to, heads, 4, size);
    }
    for (int h = 0; h < heads; h++) {
        char *y = p->y + ((row * p->tokens + token) * p->heads + head + h) * p->dim * size;
        const floats *of_head = sums[h];
        for (int64_t i = 0; i < chunks; i += 2)
            store(y + i * WIDE * size, of_head[i] * share[h], of_head[i + 1] * share[h], size);
    }
}

/* A number of heads that the compiler knows keeps their sums in registers. */
INLINE void all_heads(const Attention *p, int64_t row, int64_t token, int64_t head, int64_t count, floats *scores,
                      const int64_t room, const int size) {
    for (const int64_t end = head + count; head < end; head += HEADS) {
        const int64_t left = end - head;
        switch (left < HEADS ? left : HEADS) {
            case 1: some_heads(p, row, token, head, scores, room, 1, size); break;
            case 2: some_heads(p, row, token, head, scores, room, 2, size); break;
            case 3: some_heads(p, row, token, head, scores, room, 3, size); break;
            default: some_heads(p, row, token, head, scores, room, HEADS, size);
        }
    }
}

/* q, keys, values and y are all float32 or all bfloat16; `dim` is a multiple of 32, at most 256. A token that
 * sees nothing gives zeros. Returns 0, or 1 where there is no memory. */
int attend(const void *q, const void *keys, const void *values, const void *mask, void *y, int64_t rows, int64_t heads,
           int64_t groups, int64_t tokens, int64_t columns, int64_t dim, const int64_t strides[4], double scale,
           int bfloat16, int threads) {
    Attention p = {q, keys, values, mask, y, rows, heads, groups, tokens, columns, dim, {0}, (float)scale};
    memcpy(p.strides, strides, sizeof(p.strides));
    /* Heads that share keys read them once; but where threads would have nothing to do, each works on its own. */
    const int64_t together = rows * tokens * groups < threads ? 1 : heads / groups, parts = heads / together;
    const int64_t tasks = rows * tokens * parts, room = (columns + WIDE - 1) / WIDE;
    floats *all = aligned_alloc(sizeof(floats), threads * HEADS * room * sizeof(floats));
    if (!all) return 1;
#pragma omp parallel num_threads(threads)
    {
        floats *scores = all + omp_get_thread_num() * HEADS * room;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t row = task / (parts * tokens), head = task / tokens % parts * together, token = task % tokens;
            if (bfloat16) all_heads(&p, row, token, head, together, scores, room, 2);
            else all_heads(&p, row, token, head, together, scores, room, 4);
        }
    }
    free(all);
    return 0;
}
