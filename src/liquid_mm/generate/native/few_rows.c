/* y = x Wᵀ for a few rows x: every weight is read once, in the order in which it lies, and used for all rows.
 *
 * Weights lie in blocks of 32 outputs, padded with zeros (`few_rows.py` lays them out):
 *   bfloat16       (blocks, in / 2, 32, 2)
 *   float32, int8  (blocks, in, 32); int8 with a float32 scale for each output
 *
 * They are turned into float32 on the way and summed in float32, each row in the same order whatever is beside it.
 * The processor's own products of bfloat16 (vdpbf16ps) take as long as converting and two float32 products, from four
 * rows on longer (Intel Xeon, Sapphire Rapids). Some rows at a time keep their sums in registers; for the next ones the
 * block comes from the cache. What is read later is asked for early: sums leave the processor no room to look ahead.
 *
 * Vectors are GCC's. With AVX2 alone, half as wide and half as many, sums do not stay in registers: not worth it.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define OUT 32
#define AHEAD 2048 /* bytes; 512 and 4096 were slower */
#define ROWS 8     /* whose sums fit into the registers */

typedef float floats __attribute__((vector_size(64)));     /* 16 of them */
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));

typedef struct {
    const float *x;      /* (rows, in) */
    const void *weight;  /* blocks */
    const float *scale;  /* (out), or NULL */
    void *y;             /* (rows, out) */
    int64_t rows, in, out;
    int bfloat16;        /* whether y is */
} Product;

#define INLINE static inline __attribute__((always_inline))
#define LOAD(type, name, from) type name; memcpy(&name, from, sizeof(name))

/* GCC 12's own conversion takes these apart byte by byte. */
INLINE floats eight_bits(const char *at) {
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

/* To bfloat16: to the nearest, ties to even. Not a number stays none. */
INLINE halves rounded(floats v) {
    words bits = (words)v, up = bits + (((bits >> 16) & 1) + 0x7fff);
    words none = (words)(v != v);
    return __builtin_convertvector((((up & ~none) | (none & 0x7fc00000)) >> 16), halves);
}

static void store(const Product *p, int64_t row, int64_t column, floats v) {
    int64_t left = p->out - column, place = row * p->out + column;
    if (left <= 0) return;
    if (left > 16) left = 16;
    if (p->scale) {
        floats scale = {0};
        memcpy(&scale, p->scale + column, left * sizeof(float));
        v *= scale;
    }
    if (p->bfloat16) {
        halves r = rounded(v);
        memcpy((uint16_t *)p->y + place, &r, left * sizeof(uint16_t));
    } else {
        memcpy((float *)p->y + place, &v, left * sizeof(float));
    }
}

/* `count` rows of one block of weights of `size` bytes each. */
INLINE void some_rows(const Product *p, int64_t block, int64_t row, const int count, const int size) {
    const char *at = (const char *)p->weight + block * p->in * OUT * size;
    const float *x = p->x + row * p->in;
    floats sums[ROWS][2];
#pragma GCC unroll 8
    for (int m = 0; m < count; m++) sums[m][0] = sums[m][1] = (floats){0};
    for (int64_t k = 0; k < p->in; k += 2, at += 2 * OUT * size) {
        floats w[2][2]; /* input k or k + 1, outputs 0 to 15 or 16 to 31 */
#pragma GCC unroll 4
        for (int line = 0; line < size; line++) __builtin_prefetch(at + AHEAD + 64 * line);
        if (size == 4) {
            memcpy(w, at, sizeof(w));
        } else if (size == 2) {
            LOAD(words, a, at);
            LOAD(words, b, at + 64);
            w[0][0] = (floats)(a << 16), w[1][0] = (floats)(a & 0xffff0000);
            w[0][1] = (floats)(b << 16), w[1][1] = (floats)(b & 0xffff0000);
        } else {
            w[0][0] = eight_bits(at), w[0][1] = eight_bits(at + 16);
            w[1][0] = eight_bits(at + 32), w[1][1] = eight_bits(at + 48);
        }
#pragma GCC unroll 8
        for (int m = 0; m < count; m++)
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                sums[m][0] += w[j][0] * x[m * p->in + k + j];
                sums[m][1] += w[j][1] * x[m * p->in + k + j];
            }
    }
#pragma GCC unroll 8
    for (int m = 0; m < count; m++) {
        store(p, row + m, block * OUT, sums[m][0]);
        store(p, row + m, block * OUT + 16, sums[m][1]);
    }
}

/* A number of rows that the compiler knows keeps their sums in registers. */
INLINE void all_rows(const Product *p, int64_t block, const int size) {
    for (int64_t row = 0; row < p->rows; row += ROWS) {
        const int64_t left = p->rows - row;
        switch (left < ROWS ? left : ROWS) {
            case 1: some_rows(p, block, row, 1, size); break;
            case 2: some_rows(p, block, row, 2, size); break;
            case 3: some_rows(p, block, row, 3, size); break;
            case 4: some_rows(p, block, row, 4, size); break;
            case 5: some_rows(p, block, row, 5, size); break;
            case 6: some_rows(p, block, row, 6, size); break;
            case 7: some_rows(p, block, row, 7, size); break;
            default: some_rows(p, block, row, ROWS, size);
        }
    }
}

/* Products with blocks. x and y are each float32 or bfloat16; weights of `size` bytes: 4 float32, 2 bfloat16, 1 int8.
 * Returns 0, or 1 where there is no memory. */
int few_rows(const void *x, const void *weight, const float *scale, void *y, int64_t rows, int64_t in, int64_t out,
             int size, int x_bfloat16, int y_bfloat16, int threads) {
    Product p = {x, weight, scale, y, rows, in, out, y_bfloat16};
    const int64_t blocks = (out + OUT - 1) / OUT;
    uint32_t *copy = NULL;
    if (x_bfloat16) {
        copy = malloc(rows * in * sizeof(float));
        if (!copy) return 1;
        for (int64_t i = 0; i < rows * in; i++) copy[i] = (uint32_t)((const uint16_t *)x)[i] << 16;
        p.x = (const float *)copy;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        if (size == 4) all_rows(&p, block, 4);
        else if (size == 2) all_rows(&p, block, 2);
        else all_rows(&p, block, 1);
    }
    free(copy);
    return 0;
}

#define LINES 4 /* outputs at a time */
#define CHUNK 32

/* `count` rows with `lines` outputs of a weight (out, in) as it usually lies. x is in chunks of 32 inputs: with bfloat16
 * weights the even ones, then the odd ones. */
INLINE void some_lines(const Product *p, int64_t line, int64_t row, const int lines, const int count, const int size) {
    const char *at = (const char *)p->weight + line * p->in * size;
    const float *x = p->x + row * p->in;
    floats sums[LINES][LINES];
#pragma GCC unroll 4
    for (int n = 0; n < lines; n++)
#pragma GCC unroll 4
        for (int m = 0; m < count; m++) sums[n][m] = (floats){0};
    for (int64_t k = 0; k < p->in; k += CHUNK)
#pragma GCC unroll 4
        for (int n = 0; n < lines; n++) {
            const char *from = at + (n * p->in + k) * size;
            floats w[2];
            __builtin_prefetch(from + lines * p->in * size); /* of the next outputs */
            if (size == 4) {
                __builtin_prefetch(from + lines * p->in * size + 64);
                memcpy(w, from, sizeof(w));
            } else {
                LOAD(words, both, from);
                w[0] = (floats)(both << 16), w[1] = (floats)(both & 0xffff0000);
            }
#pragma GCC unroll 4
            for (int m = 0; m < count; m++) {
                LOAD(floats, first, x + m * p->in + k);
                LOAD(floats, second, x + m * p->in + k + 16);
                sums[n][m] += w[0] * first;
                sums[n][m] += w[1] * second;
            }
        }
#pragma GCC unroll 4
    for (int n = 0; n < lines; n++)
#pragma GCC unroll 4
        for (int m = 0; m < count; m++) {
            const float sum = _mm512_reduce_add_ps((__m512)sums[n][m]);
            const int64_t place = (row + m) * p->out + line + n;
            if (p->bfloat16) {
                halves r = rounded((floats){sum});
                memcpy((uint16_t *)p->y + place, &r, sizeof(uint16_t));
            } else {
                ((float *)p->y)[place] = sum;
            }
        }
}

INLINE void lines_of_all_rows(const Product *p, int64_t line, const int lines, const int size) {
    for (int64_t row = 0; row < p->rows; row += LINES) {
        const int64_t left = p->rows - row;
        switch (left < LINES ? left : LINES) {
            case 1: some_lines(p, line, row, lines, 1, size); break;
            case 2: some_lines(p, line, row, lines, 2, size); break;
            case 3: some_lines(p, line, row, lines, 3, size); break;
            default: some_lines(p, line, row, lines, LINES, size);
        }
    }
}

/* Products with a weight (out, in) as it usually lies, for `in` a multiple of 32. See `few_rows`. */
int few_rows_plain(const void *x, const void *weight, void *y, int64_t rows, int64_t in, int64_t out, int size,
                   int x_bfloat16, int y_bfloat16, int threads) {
    Product p = {x, weight, NULL, y, rows, in, out, y_bfloat16};
    const int64_t whole = out / LINES;
    float *copy = malloc(rows * in * sizeof(float));
    if (!copy) return 1;
    for (int64_t i = 0; i < rows * in; i++) {
        const int64_t inside = i % CHUNK, place = size == 2 ? inside / 2 + inside % 2 * 16 : inside;
        const uint32_t bits = x_bfloat16 ? (uint32_t)((const uint16_t *)x)[i] << 16 : ((const uint32_t *)x)[i];
        memcpy(copy + i - inside + place, &bits, sizeof(bits));
    }
    p.x = copy;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t group = 0; group < whole; group++) {
        if (size == 4) lines_of_all_rows(&p, group * LINES, LINES, 4);
        else lines_of_all_rows(&p, group * LINES, LINES, 2);
    }
    for (int64_t line = whole * LINES; line < out; line++) {
        if (size == 4) lines_of_all_rows(&p, line, 1, 4);
        else lines_of_all_rows(&p, line, 1, 2);
    }
    free(copy);
    return 0;
}
