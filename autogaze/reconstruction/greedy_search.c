/* The exact greedy search on canvases: a frame of every clip, from its pixels to the new canvas.
 *
 * The same as greedy_search.py: error sums (greedy_errors.h) are the same floats, in whole units
 * the same integers, and all choices follow.
 *
 * Threads are those of the caller's OpenMP, whose GOMP_parallel is handed in.
 */
#include "greedy_errors.h"

static int best(const Pyramid *p, const double *gains) {
    int found = 0;
    for (int i = 1; i < p->num_patches; i++)
        if (gains[i] > gains[found]) found = i; /* the lowest id of several */
    return found;
}

/* Gains of all patches, and the error of the canvas as it is, in whole units. */
static double begin(const Job *job, const Scratch *s, int clip) {
    const Pyramid *p = job->pyramid;
    const int levels = p->num_levels, cells = p->edges * p->edges;
    double left = 0;
    for (int i = 0; i <= p->num_patches; i++) s->gains[i] = 0;
    for (int cell = 0; cell < cells; cell++) {
        double *errors = s->errors + (int64_t)cell * levels;
        double *drops = s->drops + (int64_t)cell * levels;
        const int32_t *owners = p->owners + (int64_t)cell * levels;
        for (int level = 0; level < levels; level++) {
            const int64_t at = (int64_t)level * cells + cell;
            const float sum = s->sums[0][at] + s->sums[1][at] + s->sums[2][at];
            errors[level] = rint((double)sum * UNITS);
        }
        const double stale = errors[levels - 1];
        if (job->errors) memcpy(job->errors + ((int64_t)clip * cells + cell) * levels, errors, levels * sizeof *errors);
        errors[levels - 1] = 0; /* the finest level is the frame itself */
        for (int level = 0; level < levels; level++) {
            drops[level] = stale - errors[level];
            s->gains[owners[level]] += drops[level];
        }
        s->painted[cell] = -1;
        left += stale;
    }
    s->gains[p->num_patches] = TAKEN;
    return left;
}

/* Paint a patch: the gains of patches that share its search cells change. */
static void take(const Pyramid *p, const Scratch *s, int patch) {
    const int levels = p->num_levels, level = p->level[patch];
    s->gains[patch] = TAKEN;
    for (int i = p->first[patch]; i < p->first[patch + 1]; i++) {
        const int cell = p->cells[i];
        if (s->painted[cell] >= level) continue; /* finer patches stay on top */
        s->painted[cell] = level;
        const double *errors = s->errors + (int64_t)cell * levels;
        double *drops = s->drops + (int64_t)cell * levels;
        const int32_t *owners = p->owners + (int64_t)cell * levels;
        for (int other = 0; other < levels; other++) {
            const double drop = other > level ? errors[level] - errors[other] : 0;
            s->gains[owners[other]] += drop - drops[other];
            drops[other] = drop;
        }
    }
}

static void search(const Job *job, const Scratch *s, int clip) {
    const Pyramid *p = job->pyramid;
    const double units = 3 * (double)p->side * p->side * UNITS;
    const int64_t at = (int64_t)clip * job->most;
    double left = begin(job, s, clip);
    int n = 0;
    for (; n < job->counts[clip]; n++) {
        const int64_t given = job->given[at + n];
        const int patch = given < 0 ? best(p, s->gains) : (int)given;
        if (n && job->needs_gain && s->gains[patch] <= 0) break;
        /* Rounded as it is reported, so that a reported loss is never above. */
        if (n && job->has_threshold && (float)(left / units) <= job->threshold) break;
        if (job->gains)
            memcpy(job->gains + (at + n) * p->num_patches, s->gains, p->num_patches * sizeof(double));
        left -= s->gains[patch];
        take(p, s, patch);
        job->chosen[at + n] = patch;
        job->losses[at + n] = left / units;
    }
    job->num_chosen[clip] = n;
}

/* The pixels `top` to `bottom` of a group of W, in `count` columns of the canvas. */
INLINE void paint_group(const int n, const float *wide, int64_t wide_row, const float *factors,
                        float *canvas, int64_t row, int count, int top, int bottom) {
    for (int x = 0; x < count; x++) {
        const vec seen = clamped(group(n, wide + x * wide_row, factors));
        if (top == 0 && bottom == W) put(canvas + x * row, seen);
        else for (int y = top; y < bottom; y++) canvas[x * row + y] = seen[y];
    }
}

/* A search cell of the canvas, seen at a scale. */
static void paint_cell(const Pyramid *p, const Scratch *s, int c, int cell, float *canvas) {
    const int level = s->painted[cell], x = p->edge[cell % p->edges];
    const int count = p->edge[cell % p->edges + 1] - x;
    const int top = p->edge[cell / p->edges], bottom = p->edge[cell / p->edges + 1];
    const int64_t row = rounded(p->side), stride = wide_row(p, level);
    canvas += x * row;
    if (level == p->num_levels - 1) {
        const float *frame = s->frame[c] + x * row;
        for (int i = 0; i < count; i++)
            memcpy(canvas + i * row + top, frame + i * row + top, (bottom - top) * sizeof(float));
        return;
    }
    const Matrix *up = &p->scales[level].up_rows;
    for (int i = top / W; i * W < bottom; i++) {
        const float *wide = s->wide[c] + wide_at(p, level) + x * stride + up->from[i];
        const int from = larger(top - i * W, 0), to = smaller(bottom - i * W, W);
#define PAINT(n) \
    paint_group(n, wide, stride, factors_of(up, i), canvas + i * W, row, count, from, to)
        SMALL(up->lengths[i], PAINT)
    }
}

/* The new canvas: every search cell as fine as it was painted. */
static void paint(const Job *job, const Scratch *s, int clip) {
    const Pyramid *p = job->pyramid;
    for (int c = 0; c < 3; c++)
        for (int cell = 0; cell < p->edges * p->edges; cell++)
            if (s->painted[cell] >= 0) paint_cell(p, s, c, cell, canvas_of(job, clip, c));
}

/* Threads. */

typedef struct {
    const Job *job;
    Scratch scratch;
    int clip, next, threads;
} Work;

static void measure_some(void *data) {
    Work *work = data;
    for (int c; (c = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < 3;)
        measure(work->job, &work->scratch, work->clip, c);
}

static void search_some(void *data) {
    Work *work = data;
    const Job *job = work->job;
    const int thread = __atomic_fetch_add(&work->threads, 1, __ATOMIC_RELAXED);
    Scratch scratch;
    lay_out(job->pyramid, job->scratch + thread * scratch_size(job->pyramid), &scratch);
    for (int clip; (clip = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->num_clips;) {
        for (int c = 0; c < 3; c++) measure(job, &scratch, clip, c);
        search(job, &scratch, clip);
        paint(job, &scratch, clip);
    }
}

/* The search in the next frame of every clip; the threads share clips, or a clip's channels. */
void search_frames(const Job *job) {
    Work work = {.job = job};
    if (job->threads < 2) search_some(&work);
    else if (job->num_clips >= job->threads) job->parallel(search_some, &work, job->threads, 0);
    else {
        lay_out(job->pyramid, job->scratch, &work.scratch);
        for (; work.clip < job->num_clips; work.clip++) {
            work.next = 0;
            job->parallel(measure_some, &work, job->threads < 3 ? job->threads : 3, 0);
            search(job, &work.scratch, work.clip);
            paint(job, &work.scratch, work.clip);
        }
    }
}
