/* Error sums of a frame's scales and of the canvas, from pixels: the first part of greedy_search.c.
 *
 * The same numbers as resample.py and greedy_search.py, bit for bit: every sum is added up in the
 * order of a matrix product's, one fused multiplication and addition after the other; factors of 0
 * change nothing and are left out.
 *
 * Pictures are held transposed, [x][y], in rows of whole vectors: with y in the lanes, a product
 * along x takes whole rows (`columns`), one along y takes 8 of its results at once, of which each
 * needs few and nearly the same numbers (`rows`), and sums over a search cell, first along x, then
 * along y, need no lanes added up. Enlarged pictures are never stored: they are compared as they
 * are computed, and computed again where they are painted.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__FMA__) && !defined(__aarch64__)
#error "no fused multiplication and addition on this processor"
#endif

#define W 8     /* lanes of a vector */
#define TILE 8
#define UNITS 16777216.0 /* per 1 of an error sum: see greedy_search.py */
#define HALO 2 /* see resample.py */
#define TAKEN (-1e300)   /* gain of a patch that was taken, or is none */

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), may_alias));
typedef uint8_t bytes __attribute__((vector_size(W), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

typedef void Task(void *);
typedef void Parallel(Task *, void *, unsigned, unsigned);

typedef struct { /* a matrix with few numbers in a row: resizing along one axis */
    int32_t num, most;      /* results (columns) or groups of W of them (rows); most factors of one */
    const int32_t *from;    /* columns: [num][most], which rows; rows: [num], the first number */
    const int32_t *lengths; /* [num], factors of each */
    const float *factors;   /* columns: [num][most]; rows: [num][most][W] */
} Matrix;

typedef struct {
    int32_t side, source; /* pixels; the finer level that it is reduced from */
    Matrix down_columns, down_rows, up_columns, up_rows;
} Scale; /* of the finest, which is the frame, only the side counts */

typedef struct {
    int32_t num_levels, num_patches, edges, side; /* edges: search cells per side */
    int32_t block; /* sums are added up from those of blocks of so many pixels of an axis */
    const Scale *scales;
    const int32_t *edge;    /* [edges + 1], their boundaries in pixels */
    const int32_t *owners;  /* [cells][levels], ids; num_patches where there is none */
    const int32_t *first;   /* [patches + 1], of each patch's search cells in `cells` */
    const int32_t *cells;
    const int32_t *level;   /* [patches] */
} Pyramid;

typedef struct {
    const Pyramid *pyramid;
    Parallel *parallel;
    int32_t threads, num_clips, most; /* most: patches that a frame of any clip takes */
    int32_t is_bytes;                 /* frames are uint8, in [0, 255] */
    int32_t needs_gain, has_threshold; /* when frames stop before their count: see `search` */
    float threshold;
    const void *frames;     /* [clips][3][S][S], clips `stride` numbers apart */
    int64_t stride;
    float *canvases;        /* [clips][3][S][rounded S], transposed */
    float *scratch;         /* per thread `scratch_size` floats, all of them numbers */
    const int32_t *counts;  /* [clips], patches to take */
    const int64_t *given;   /* [clips][most], ids to take; -1: the best one */
    int64_t *chosen;        /* [clips][most] */
    int32_t *num_chosen;    /* [clips] */
    double *losses;         /* [clips][most], after each of them */
    double *gains;          /* [clips][most][patches], before each of them, or null */
    double *errors;         /* [clips][cells][levels + 1], the canvas' last, or null */
} Job;

typedef struct { /* what one frame of one clip is worked on with */
    float *frame[3];  /* [S][rounded S] */
    float *narrow[3]; /* columns of a reduced picture, [s][rounded side of its source] */
    float *small[3];  /* of each coarser level, [s][rounded s] */
    float *wide[3];   /* of each coarser level, its columns enlarged, [S][rounded s + W] */
    float *sums[3];   /* [levels][cells]: errors of the coarser levels, then the canvas' */
    double *errors;   /* [cells][levels] */
    double *drops;    /* [cells][levels] */
    double *gains;    /* [patches + 1] */
    int32_t *painted; /* [cells] */
} Scratch;

INLINE int smaller(int a, int b) { return a < b ? a : b; }
INLINE int larger(int a, int b) { return a > b ? a : b; }
INLINE int64_t rounded(int64_t n) { return (n + W - 1) / W * W; }
INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void put(float *to, vec x) { *(vec *)to = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec absolute(vec x) { return (vec)((ivec)x & 0x7fffffff); }

/* a * b + c, rounded once. */
INLINE vec fused(vec a, vec b, vec c) {
    UNROLL for (int l = 0; l < W; l++) c[l] = __builtin_fmaf(a[l], b[l], c[l]);
    return c;
}

INLINE vec clamped(vec x) {
    for (int l = 0; l < W; l++) x[l] = x[l] > 0 ? x[l] : 0;
    for (int l = 0; l < W; l++) x[l] = x[l] < 1 ? x[l] : 1;
    return x;
}

/* Where levels begin in `small` and `wide`, in floats. */

INLINE int64_t wide_row(const Pyramid *p, int level) {
    return rounded(p->scales[level].side) + W; /* room for the border on both sides */
}

static int64_t small_at(const Pyramid *p, int level) {
    int64_t at = 0;
    for (int l = 0; l < level; l++) at += p->scales[l].side * rounded(p->scales[l].side);
    return at;
}

static int64_t wide_at(const Pyramid *p, int level) {
    int64_t at = 0;
    for (int l = 0; l < level; l++) at += p->side * wide_row(p, l);
    return at;
}

static void *part(float **next, int64_t numbers) {
    float *at = *next;
    *next += (numbers + 15) / 16 * 16; /* whole cache lines */
    return at;
}

static float *lay_out(const Pyramid *p, float *memory, Scratch *s) {
    const int coarser = p->num_levels - 1;
    const int64_t cells = (int64_t)p->edges * p->edges;
    float *next = memory;
    for (int c = 0; c < 3; c++) {
        s->frame[c] = part(&next, p->side * rounded(p->side));
        s->narrow[c] = part(&next, coarser ? p->scales[coarser - 1].side * rounded(p->side) : 0);
        s->small[c] = part(&next, small_at(p, coarser));
        s->wide[c] = part(&next, wide_at(p, coarser));
        s->sums[c] = part(&next, p->num_levels * cells);
    }
    s->errors = part(&next, 2 * cells * p->num_levels);
    s->drops = part(&next, 2 * cells * p->num_levels);
    s->gains = part(&next, 2 * (p->num_patches + 1));
    s->painted = part(&next, cells);
    return next;
}

/* Floats of one thread's scratch. */
int64_t scratch_size(const Pyramid *p) {
    float nothing[1];
    Scratch s;
    return lay_out(p, nothing, &s) - nothing;
}

/* Pictures. */

INLINE vec read_vec(const Job *job, int64_t at) {
    if (!job->is_bytes) return load((const float *)job->frames + at);
    const bytes x = *(const bytes *)((const uint8_t *)job->frames + at);
    return __builtin_convertvector(x, vec) / all(255);
}

INLINE float read_one(const Job *job, int64_t at) {
    if (!job->is_bytes) return ((const float *)job->frames)[at];
    return (float)((const uint8_t *)job->frames)[at] / 255.0f;
}

/* 8 rows of 8 columns, and the other way round. */
INLINE void transpose_block(vec r[W]) {
    vec a[W], b[W];
    UNROLL for (int i = 0; i < W; i += 2) {
        a[i] = SHUFFLE(r[i], r[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        a[i + 1] = SHUFFLE(r[i], r[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    UNROLL for (int i = 0; i < W; i += 4) UNROLL for (int j = 0; j < 2; j++) {
        b[i + j] = SHUFFLE(a[i + j], a[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        b[i + j + 2] = SHUFFLE(a[i + j], a[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        r[i] = SHUFFLE(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[i + 4] = SHUFFLE(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* One channel of the frame, transposed, in [0, 1]. */
static void read_frame(const Job *job, int64_t at, float *to) {
    const int side = job->pyramid->side, whole = side / W * W;
    const int64_t row = rounded(side);
    for (int x = 0; x < whole; x += W)
        for (int y = 0; y < whole; y += W) {
            vec block[W];
            UNROLL for (int i = 0; i < W; i++)
                block[i] = read_vec(job, at + (int64_t)(y + i) * side + x);
            transpose_block(block);
            UNROLL for (int i = 0; i < W; i++) put(to + (x + i) * row + y, block[i]);
        }
    for (int x = 0; x < side; x++)
        for (int y = x < whole ? whole : 0; y < side; y++)
            to[x * row + y] = read_one(job, at + (int64_t)y * side + x);
}

/* The same code for every small n, so that a compiler unrolls it and keeps factors in registers. */
#define SMALL(n, do) \
    switch (n) { \
    case 1: do(1); break; case 2: do(2); break; case 3: do(3); break; case 4: do(4); break; \
    case 5: do(5); break; case 6: do(6); break; case 7: do(7); break; case 8: do(8); break; \
    case 9: do(9); break; case 10: do(10); break; case 11: do(11); break; case 12: do(12); break; \
    default: do(n); \
    }

/* to[:] = sum over k of factors[k] * in[from[k]][:] */
INLINE void column(const int n, const int32_t *from, const float *factors, const float *in,
                   int64_t in_row, int length, float *to) {
    for (int y = 0; y < length; y += W) {
        vec sum = {0};
        UNROLL for (int k = 0; k < n; k++)
            sum = fused(load(in + from[k] * in_row + y), all(factors[k]), sum);
        put(to + y, sum);
    }
}

/* The products of a matrix with columns of `length` numbers. */
static void columns(const Matrix *m, const float *in, int64_t in_row, int length, float *to,
                    int64_t to_row) {
    for (int i = 0; i < m->num; i++) {
        const int64_t at = (int64_t)i * m->most;
#define COLUMN(n) column(n, m->from + at, m->factors + at, in, in_row, length, to + i * to_row)
        SMALL(m->lengths[i], COLUMN)
    }
}

/* W neighbouring results of the product with a row, of which each needs some of n numbers. */
INLINE vec group(const int n, const float *row, const float *factors) {
    vec sum = {0};
    UNROLL for (int k = 0; k < n; k++) sum = fused(all(row[k]), load(factors + k * W), sum);
    return sum;
}

INLINE const float *factors_of(const Matrix *m, int i) {
    return m->factors + (int64_t)i * m->most * W;
}

/* The products of a matrix with rows, several of them at once: sums do not wait for each other. */
static void rows(const Matrix *m, const float *in, int64_t in_row, int num, float *to,
                 int64_t to_row) {
    for (int i = 0; i < m->num; i++) {
        const float *from = in + m->from[i], *factors = factors_of(m, i);
        int x = 0;
        for (; x + TILE <= num; x += TILE) {
            vec sum[TILE] = {{0}};
            for (int k = 0; k < m->lengths[i]; k++)
                UNROLL for (int j = 0; j < TILE; j++)
                    sum[j] = fused(all(from[(x + j) * in_row + k]), load(factors + k * W), sum[j]);
            UNROLL for (int j = 0; j < TILE; j++) put(to + (x + j) * to_row + i * W, sum[j]);
        }
        for (; x < num; x++)
            put(to + x * to_row + i * W, group(m->lengths[i], from + x * in_row, factors));
    }
}

/* A channel reduced to a scale and widened again, all but its rows enlarged. */
static void resample(const Job *job, const Scratch *s, int c, int level) {
    const Pyramid *p = job->pyramid;
    const Scale *scale = p->scales + level;
    const int from = scale->source, is_frame = from == p->num_levels - 1, side = scale->side;
    const float *in = is_frame ? s->frame[c] : s->small[c] + small_at(p, from);
    const int64_t in_row = rounded(p->scales[from].side), row = rounded(side);
    float *small = s->small[c] + small_at(p, level);
    columns(&scale->down_columns, in, in_row, p->scales[from].side, s->narrow[c], in_row);
    rows(&scale->down_rows, s->narrow[c], in_row, side, small, row);
    /* The border is seen again beyond it. */
    const int64_t wide = wide_row(p, level);
    float *to = s->wide[c] + wide_at(p, level);
    columns(&scale->up_columns, small, row, side, to + HALO, wide);
    for (int x = 0; x < p->side; x++, to += wide)
        for (int i = 0; i < HALO; i++) {
            to[i] = to[HALO];
            to[HALO + side + i] = to[HALO + side - 1];
        }
}

/* |seen - frame| summed over `count` columns of a group of W pixels. */

INLINE vec canvas_error(const float *canvas, const float *frame, int64_t row, int count) {
    vec sum = {0};
    for (int x = 0; x < count; x++)
        sum += absolute(load(canvas + x * row) - load(frame + x * row));
    return sum;
}

INLINE vec scale_error(const int n, const float *wide, int64_t wide_row, const float *factors,
                       const float *frame, int64_t row, int count) {
    vec sum = {0};
    for (int x = 0; x < count; x++)
        sum += absolute(clamped(group(n, wide + x * wide_row, factors)) - load(frame + x * row));
    return sum;
}

/* The same of all pixels of columns of a level, or of the canvas; to: [rounded S] */
static void column_errors(const Job *job, const Scratch *s, int c, int level, const float *canvas,
                          int left, int count, float *to) {
    const Pyramid *p = job->pyramid;
    const int64_t row = rounded(p->side), stride = wide_row(p, level);
    const float *wide = s->wide[c] + wide_at(p, level) + left * stride;
    const float *frame = s->frame[c] + left * row;
    const Matrix *up = &p->scales[level].up_rows;
    for (int i = 0; i < row / W; i++) {
        vec sum;
        if (canvas) {
            sum = canvas_error(canvas + left * row + i * W, frame + i * W, row, count);
        } else {
            const float *from = wide + up->from[i], *factors = factors_of(up, i);
#define ERROR(n) sum = scale_error(n, from, stride, factors, frame + i * W, row, count)
            SMALL(up->lengths[i], ERROR)
        }
        put(to + i * W, load(to + i * W) + sum);
    }
}

INLINE int end_of_block(const Pyramid *p, int start, int end) {
    return p->block ? smaller(end, (start / p->block + 1) * p->block) : end;
}

/* The errors of a level, or of the canvas in the finest's place, in every search cell of a channel. */
static void compare(const Job *job, const Scratch *s, int c, int level, const float *canvas) {
    const Pyramid *p = job->pyramid;
    float *sums = s->sums[c] + (int64_t)level * p->edges * p->edges;
    float along[rounded(p->side)];
    for (int cx = 0; cx < p->edges; cx++) {
        memset(along, 0, sizeof along);
        for (int x = p->edge[cx], end; x < p->edge[cx + 1]; x = end) {
            end = end_of_block(p, x, p->edge[cx + 1]);
            column_errors(job, s, c, level, canvas, x, end - x, along);
        }
        for (int cy = 0; cy < p->edges; cy++) {
            float sum = 0;
            for (int y = p->edge[cy], end; y < p->edge[cy + 1];) {
                float part = 0;
                for (end = end_of_block(p, y, p->edge[cy + 1]); y < end; y++) part += along[y];
                sum += part;
            }
            sums[cy * p->edges + cx] = sum;
        }
    }
}

static float *canvas_of(const Job *job, int clip, int c) {
    const int64_t picture = job->pyramid->side * rounded(job->pyramid->side);
    return job->canvases + (clip * 3 + c) * picture;
}

/* All that a channel has to do before the search. */
static void measure(const Job *job, const Scratch *s, int clip, int c) {
    const Pyramid *p = job->pyramid;
    const int finest = p->num_levels - 1;
    read_frame(job, clip * job->stride + (int64_t)c * p->side * p->side, s->frame[c]);
    for (int level = finest - 1; level >= 0; level--) {
        resample(job, s, c, level);
        compare(job, s, c, level, 0);
    }
    compare(job, s, c, finest, canvas_of(job, clip, c));
}
