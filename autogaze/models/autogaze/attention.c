/* Attention of new tokens over what each row has in its cache, and writing to that cache.
 *
 * A product of few queries with many keys is fast if keys lie in the lanes of a vector
 * and queries are broadcast: no lane idles, whatever the number of queries. So a cache
 * keeps keys in groups of 16 with their channels outermost, [capacity / 16][D][16], and
 * values as they come, [capacity][D]; nothing is rearranged when it is read. Softmax is
 * the online one: a block of scores at a time, with a running maximum and sum.
 *
 * Compiled for one head dimension, D. Vectors are the compiler's own, of the width that
 * the processor has, so this is the same source for all of them. Threads are those of
 * the caller's OpenMP, whose GOMP_parallel is handed in.
 */
#include <stdint.h>
#include <string.h>

#define GROUP 16  /* keys that lie side by side */
#define BLOCK 256 /* keys between two updates of the running maximum */
#define TILE 24   /* queries that a task works on */

#if defined(__AVX512F__)
#define W 16    /* lanes of a vector */
#define SUMS 24 /* vectors to sum up in at once, so that all fit into the registers */
#define KEYS 2  /* of them side by side along the keys */
#elif defined(__AVX__)
#define W 8
#define SUMS 12
#define KEYS 2
#elif defined(__aarch64__)
#define W 4
#define SUMS 24
#define KEYS 4
#else
#define W 4
#define SUMS 12
#define KEYS 4
#endif
#define QUERIES (SUMS / KEYS) /* queries multiplied with keys at once; divides TILE */

#if D % W == 0
#define DW W /* lanes of a vector of channels */
#elif D % 8 == 0
#define DW 8
#else
#define DW 4
#endif
#define DV (D / DW)
#define FEW (SUMS / DV < 1 ? 1 : SUMS / DV > 12 ? 12 : SUMS / DV) /* queries times values */

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef float dvec __attribute__((vector_size(4 * DW), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define ALIGNED __attribute__((aligned(64)))

typedef void Task(void *);
typedef void Parallel(Task *, void *, unsigned, unsigned);

typedef struct {
    Parallel *parallel;
    int32_t threads, kv_heads, num_rows;
    int64_t row_stride, head_stride;           /* of the cache, in floats */
    const int64_t *row, *past, *count, *first; /* per fed row: its index, tokens cached before,
                                                  new ones, index of its first one */
} Feed;

typedef struct {
    const Feed *feed;
    float *cache; /* one layer's */
    const float *in;
    float *out;
    int64_t in_stride;
    int heads, tasks, next;
} Work;

INLINE int smaller(int a, int b) { return a < b ? a : b; }

INLINE vec larger(vec a, vec b) {
    for (int l = 0; l < W; l++) a[l] = a[l] > b[l] ? a[l] : b[l];
    return a;
}

INLINE vec all(float x) { return x - (vec){0}; }

/* 2^x for x <= 0, and about 2^-100 below that; relative error 1.5e-7.
 * x = n + f, |f| <= 1/2: n is rounded by a number so large that it has no fraction, and is
 * added to the exponent of 2^f, a polynomial (the best one of its degree). */
INLINE vec exp2_of(vec x) {
    x = larger(x, all(-100.0f));
    const vec shifted = x + 12582912.0f;
    const vec f = x - (shifted - 12582912.0f);
    vec p = f * 0.0013276471992533978f + 0.009675541334453752f;
    p = p * f + 0.055507132734978495f;
    p = p * f + 0.24022119723839974f;
    p = p * f + 0.6931469670647609f;
    p = p * f + 1.0000000716546849f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* What is read next is fetched meanwhile: the values during the scores, and during the
 * weighing the keys that follow (or nothing, where there are none: fetching never faults). */
INLINE void fetch(const float *from, int numbers) {
    UNROLL for (int i = 0; i < numbers; i += 16) __builtin_prefetch(from + i, 0, 2);
}

/* Scores of nq queries, [D][QUERIES], with nk vectors of keys. */
INLINE void score_few(const int nq, const int nk, const float *q, const float *keys,
                      const float *ahead, float *s) {
    vec sum[QUERIES][KEYS];
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int v = 0; v < nk; v++) sum[i][v] = (vec){0};
    for (int d = 0; d < D; d++) {
        fetch(ahead + d * nk * W, nk * W);
        vec k[KEYS];
        UNROLL for (int v = 0; v < nk; v++)
            k[v] = *(const vec *)(keys + (v * W / GROUP * D + d) * GROUP + v * W % GROUP);
        UNROLL for (int i = 0; i < nq; i++)
            UNROLL for (int v = 0; v < nk; v++) sum[i][v] += k[v] * q[d * QUERIES + i];
    }
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int v = 0; v < nk; v++) *(vec *)(s + i * BLOCK + v * W) = sum[i][v];
}

INLINE void score(const int nq, int n, const float *q, const float *keys, const float *ahead,
                  float *s) {
    int j = 0;
    for (; j + KEYS * W <= n; j += KEYS * W)
        score_few(nq, KEYS, q, keys + j * D, ahead + j * D, s + j);
#if KEYS * W > GROUP
    if (j < n) score_few(nq, GROUP / W, q, keys + j * D, ahead + j * D, s + j);
#endif
}

/* o = o * shrink + p values, for nq queries. */
INLINE void weigh(const int nq, int n, const float *p, const float *values, const float *ahead,
                  const float *shrink, float *o) {
    dvec sum[FEW][DV];
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int d = 0; d < DV; d++) sum[i][d] = *(dvec *)(o + i * D + d * DW) * shrink[i];
    for (int j = 0; j < n; j++) {
        fetch(ahead + j * D, D);
        dvec v[DV];
        UNROLL for (int d = 0; d < DV; d++) v[d] = *(const dvec *)(values + j * D + d * DW);
        UNROLL for (int i = 0; i < nq; i++)
            UNROLL for (int d = 0; d < DV; d++) sum[i][d] += v[d] * p[i * BLOCK + j];
    }
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int d = 0; d < DV; d++) *(dvec *)(o + i * D + d * DW) = sum[i][d];
}

/* Scores to weights not yet divided by their sum; `shrink` is what sums so far lose. */
static void soften(int nq, int n, float *s, float *top, float *sum, float *shrink) {
    for (int i = 0; i < nq; i++) {
        vec most = *(vec *)(s + i * BLOCK);
        for (int j = W; j < n; j += W) most = larger(most, *(vec *)(s + i * BLOCK + j));
        const float before = top[i];
        for (int l = 0; l < W; l++) top[i] = most[l] > top[i] ? most[l] : top[i];
        shrink[i] = before - top[i];
    }
    for (int i = 0; i < nq; i += W) *(vec *)(shrink + i) = exp2_of(*(vec *)(shrink + i));
    for (int i = 0; i < nq; i++) {
        vec part = {0};
        for (int j = 0; j < n; j += W) {
            vec *at = (vec *)(s + i * BLOCK + j);
            *at = exp2_of(*at - top[i]);
            part += *at;
        }
        *(vec *)(sum + i * W) = *(vec *)(sum + i * W) * shrink[i] + part;
    }
}

/* Compiled for every small number of queries, since the sums must stay in registers. */
#define EACH(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

#define SCORE(nq) \
    case nq: score(nq < QUERIES ? nq : 1, n, q, keys, ahead, s); break;

static void score_up_to(int left, int n, const float *q, const float *keys, const float *ahead,
                        float *s) {
    switch (smaller(left, QUERIES) % QUERIES) {
        EACH(SCORE)
        default: score(QUERIES, n, q, keys, ahead, s);
    }
}

#define WEIGH(nq) \
    case nq: weigh(nq < FEW ? nq : 1, n, p, values, ahead, shrink, o); break;

static void weigh_up_to(int left, int n, const float *p, const float *values, const float *ahead,
                        const float *shrink, float *o) {
    switch (smaller(left, FEW) % FEW) {
        EACH(WEIGH)
        default: weigh(FEW, n, p, values, ahead, shrink, o);
    }
}

/* A row's queries of one kv head, token by token and in each its heads: items begin..end. */
static void attend_tile(const Work *work, int r, int g, int begin, int end) {
    const Feed *feed = work->feed;
    const int group = work->heads / feed->kv_heads, items = end - begin;
    const float *keys = work->cache + feed->row[r] * feed->row_stride + g * feed->head_stride;
    const float *values = keys + feed->kv_heads * feed->head_stride;
    float q[TILE * D] ALIGNED, s[TILE * BLOCK] ALIGNED, o[TILE * D] ALIGNED;
    float sum[TILE * W] ALIGNED, shrink[TILE + W] ALIGNED, top[TILE];
    int visible[TILE];
    memset(o, 0, sizeof o);
    memset(sum, 0, sizeof sum);
    memset(shrink, 0, sizeof shrink);
    for (int i = 0; i < items; i++) {
        const int token = (begin + i) / group, head = g * group + (begin + i) % group;
        const float *from = work->in + (feed->first[r] + token) * work->in_stride + head * D;
        float *to = q + i / QUERIES * QUERIES * D + i % QUERIES;
        for (int d = 0; d < D; d++) to[d * QUERIES] = from[d] * 1.44269504088896341f; /* log2 e */
        visible[i] = (int)feed->past[r] + token + 1;
        top[i] = -1e30f;
    }
    const int total = visible[items - 1];
    for (int at = 0; at < total; at += BLOCK) {
        const int n = smaller(total - at, BLOCK), padded = (n + GROUP - 1) / GROUP * GROUP;
        const float *k = keys + (int64_t)at * D, *v = values + (int64_t)at * D;
        for (int i = 0; i < items; i += QUERIES)
            score_up_to(items - i, padded, q + i * D, k, v, s + i * BLOCK);
        for (int i = 0; i < items && visible[i] < at + padded; i++)
            for (int j = visible[i] > at ? visible[i] - at : 0; j < padded; j++)
                s[i * BLOCK + j] = -1e30f;
        soften(items, padded, s, top, sum, shrink);
        for (int i = 0; i < items; i += FEW)
            weigh_up_to(items - i, n, s + i * BLOCK, v, k + BLOCK * D, shrink + i, o + i * D);
    }
    for (int i = 0; i < items; i++) {
        const int64_t token = feed->first[r] + (begin + i) / group;
        float *to = work->out + (token * work->heads + g * group + (begin + i) % group) * D;
        float whole = 0;
        for (int l = 0; l < W; l++) whole += sum[i * W + l];
        for (int d = 0; d < D; d++) to[d] = o[i * D + d] / whole;
    }
}

INLINE int items_of(const Work *work, int r) {
    return (int)work->feed->count[r] * (work->heads / work->feed->kv_heads);
}

INLINE int tiles_of(const Work *work, int r) { return (items_of(work, r) + TILE - 1) / TILE; }

static void attend_some(void *data) {
    Work *work = data;
    const Feed *feed = work->feed;
    for (int task; (task = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->tasks;) {
        int r = 0;
        for (; task >= feed->kv_heads * tiles_of(work, r); r++)
            task -= feed->kv_heads * tiles_of(work, r);
        const int tiles = tiles_of(work, r), g = task / tiles, begin = task % tiles * TILE;
        attend_tile(work, r, g, begin, smaller(begin + TILE, items_of(work, r)));
    }
}

static void store_some(void *data) {
    Work *work = data;
    const Feed *feed = work->feed;
    for (int task; (task = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->tasks;) {
        const int r = task / feed->kv_heads, g = task % feed->kv_heads;
        float *keys = work->cache + feed->row[r] * feed->row_stride + g * feed->head_stride;
        float *values = keys + feed->kv_heads * feed->head_stride;
        for (int64_t t = 0; t < feed->count[r]; t++) {
            const float *from = work->in + (feed->first[r] + t) * work->in_stride + g * D;
            const int64_t at = feed->past[r] + t;
            float *to = keys + at / GROUP * GROUP * D + at % GROUP;
            for (int d = 0; d < D; d++) to[d * GROUP] = from[d];
            memcpy(values + at * D, from + feed->kv_heads * D, sizeof(float) * D);
        }
    }
}

/* Waking threads takes as long as a core needs for a few thousand numbers. */
static void share(Work *work, Task *some, int64_t numbers) {
    const int threads = numbers < 16384 ? 1 : smaller(work->feed->threads, work->tasks);
    if (threads > 1) work->feed->parallel(some, work, (unsigned)threads, 0);
    else some(work);
}

/* queries: a token each `stride` floats, [heads][D], scaled; out: [tokens][heads][D]. */
void attend(const Feed *feed, float *cache, const float *queries, int64_t stride, int32_t heads,
            float *out) {
    Work work = {feed, cache, queries, out, stride, heads, 0, 0};
    int64_t numbers = 0; /* of queries and keys multiplied, some tens of them at a time */
    for (int r = 0; r < feed->num_rows; r++) {
        work.tasks += feed->kv_heads * tiles_of(&work, r);
        numbers += heads * feed->count[r] * (feed->past[r] + feed->count[r]);
    }
    share(&work, attend_some, numbers);
}

/* keys_values: a token each `stride` floats, keys [kv_heads][D] before values. */
void store(const Feed *feed, float *cache, const float *keys_values, int64_t stride) {
    Work work = {feed, cache, keys_values, 0, stride, 0, feed->num_rows * feed->kv_heads, 0};
    int64_t numbers = 0;
    for (int r = 0; r < feed->num_rows; r++) numbers += 2 * D * feed->kv_heads * feed->count[r];
    share(&work, store_some, numbers);
}
