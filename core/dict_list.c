/*
 * dict_list: lists as values of a dict: items in a chain of their own, which both ends of can be pushed to and taken from. As in
 * ngx.shared.DICT, a push takes the room of what has expired, but of nothing else.
 */
#include "dict.h"

static const double ITEM_MAX = INT32_MAX;

struct push {
  int at_end, type;
  double number;
  const void *bytes;
  uint32_t size;
};

static void link_item(rille_dict *d, struct dict_entry *list, dict_ref ref, int at_end) {
  struct dict_item *item = &dict_cell(d, ref)->item;
  dict_ref *near_end = at_end ? &list->value.list.last : &list->value.list.first;
  dict_ref *far_end = at_end ? &list->value.list.first : &list->value.list.last;
  dict_ref neighbour = *near_end;
  item->next = at_end ? 0 : neighbour;
  item->previous = at_end ? neighbour : 0;
  if (neighbour && at_end) dict_cell(d, neighbour)->item.next = ref;
  else if (neighbour) dict_cell(d, neighbour)->item.previous = ref;
  else *far_end = ref;
  *near_end = ref;
  list->size++;
}

static void unlink_item(rille_dict *d, struct dict_entry *list, const struct dict_item *item) {
  if (item->next) dict_cell(d, item->next)->item.previous = item->previous;
  else list->value.list.last = item->previous;
  if (item->previous) dict_cell(d, item->previous)->item.next = item->next;
  else list->value.list.first = item->next;
  list->size--;
}

/* Under the lock: the new length, or an error. */
static double push(rille_dict *d, const struct dict_key *k, const struct push *p) {
  struct dict_shard *s = k->shard;
  struct dict_entry *e = dict_find(d, k);
  if (e && e->type != RILLE_DICT_LIST) return RILLE_ERR_NOT_A_LIST;
  if (e && e->size == UINT32_MAX) return RILLE_ERR_TOO_LARGE;
  uint32_t item_cells = dict_cells_for(p->size, DICT_ITEM_ROOM), entry_cells = e ? 0 : dict_entry_cells(k->size);
  if (dict_is_beyond(d, (uint64_t)item_cells + entry_cells)) return RILLE_ERR_NO_MEMORY;
  bool has_evicted = false;
  int err = dict_reserve(d, s, item_cells + entry_cells, e ? dict_ref_of(d, e) : 0, DICT_EXPIRED, &has_evicted);
  if (err) return err;
  if (e) {
    dict_use(d, s, e);
  } else {
    e = dict_insert(d, k, entry_cells);
    e->type = RILLE_DICT_LIST;
    e->value.list.first = e->value.list.last = 0;
  }
  dict_ref ref = dict_take_cells(d, s, item_cells);
  struct dict_item *item = &dict_cell(d, ref)->item;
  item->type = (uint8_t)p->type;
  item->number = p->number;
  item->size = p->size;
  struct dict_cursor c = dict_item_bytes(item);
  dict_put_bytes(d, &c, p->bytes, p->size);
  link_item(d, e, ref, p->at_end);
  return e->size;
}

double rille_dict_push(rille_dict *d, const void *key, double key_size, int at_end, int type, double number,
                       const void *bytes, double size) {
  struct dict_key k;
  int err = dict_key_of(d, key, key_size, &k);
  if (err) return err;
  if (type != RILLE_DICT_NUMBER && type != RILLE_DICT_STRING) return RILLE_ERR_INVALID;
  struct push p = {.at_end = at_end, .type = type, .number = number};
  if (type == RILLE_DICT_STRING) {
    if (!(size >= 0 && size <= ITEM_MAX)) return RILLE_ERR_TOO_LARGE;
    p.bytes = bytes;
    p.size = (uint32_t)size;
  }
  pthread_mutex_lock(&k.shard->lock);
  double result = push(d, &k, &p);
  dict_trim(d, k.shard);
  pthread_mutex_unlock(&k.shard->lock);
  return result;
}

/* Under the lock. */
static int pop(rille_dict *d, const struct dict_key *k, int at_end, rille_dict_value *out) {
  struct dict_entry *e = dict_find(d, k);
  if (!e) return RILLE_DICT_NIL;
  if (e->type != RILLE_DICT_LIST) return RILLE_ERR_NOT_A_LIST;
  dict_use(d, k->shard, e);
  dict_ref ref = at_end ? e->value.list.last : e->value.list.first;
  struct dict_item *item = &dict_cell(d, ref)->item;
  int type = item->type;
  out->number = item->number;
  if (type == RILLE_DICT_STRING) {
    dict_copy_out(d, dict_item_bytes(item), item->size, out);
    if (out->size > out->room) return type; /* they come again with more room */
  }
  unlink_item(d, e, item);
  dict_give_cells(d, k->shard, ref);
  if (e->size == 0) dict_remove(d, k->shard, e);
  return type;
}

int rille_dict_pop(rille_dict *d, const void *key, double key_size, int at_end, rille_dict_value *out) {
  struct dict_key k;
  int result = dict_key_of(d, key, key_size, &k);
  if (result) return result;
  pthread_mutex_lock(&k.shard->lock);
  result = pop(d, &k, at_end, out);
  dict_trim(d, k.shard);
  pthread_mutex_unlock(&k.shard->lock);
  return result;
}

double rille_dict_llen(rille_dict *d, const void *key, double key_size) {
  struct dict_key k;
  int err = dict_key_of(d, key, key_size, &k);
  if (err) return err;
  double length = 0;
  pthread_mutex_lock(&k.shard->lock);
  struct dict_entry *e = dict_find(d, &k);
  if (e) length = e->type == RILLE_DICT_LIST ? (double)e->size : (double)RILLE_ERR_NOT_A_LIST;
  dict_trim(d, k.shard);
  pthread_mutex_unlock(&k.shard->lock);
  return length;
}
