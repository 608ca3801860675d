/* Weak stand-ins for functions not yet written; removed when the last of them is. */
#include "base/base.h"
#include "catalog/metadata.h"
#include "routing/routing.h"
#include "remote/remote.h"
#include "transaction/transaction.h"
#include "executor/wrapper.h"
#include "ddl/ddl.h"
#include "worker/worker.h"
__attribute__((weak)) const DistributedTable *dbscale_catalog_table(Oid relid) { elog(ERROR, "dbscale_catalog_table is not there yet"); }
__attribute__((weak)) const TableGroup *dbscale_catalog_group(int group_id) { elog(ERROR, "dbscale_catalog_group is not there yet"); }
__attribute__((weak)) const TableGroup *dbscale_catalog_group_by_opfamily(const char *opfamily) { elog(ERROR, "dbscale_catalog_group_by_opfamily is not there yet"); }
__attribute__((weak)) const ShardNode *dbscale_catalog_node(const char *name) { elog(ERROR, "dbscale_catalog_node is not there yet"); }
__attribute__((weak)) const ShardNode *dbscale_catalog_node_by_server(Oid serverid) { elog(ERROR, "dbscale_catalog_node_by_server is not there yet"); }
__attribute__((weak)) List *dbscale_catalog_nodes(void) { elog(ERROR, "dbscale_catalog_nodes is not there yet"); }
__attribute__((weak)) List *dbscale_catalog_tables(void) { elog(ERROR, "dbscale_catalog_tables is not there yet"); }
__attribute__((weak)) const Shard *dbscale_catalog_shard(const TableGroup *group, int number) { elog(ERROR, "dbscale_catalog_shard is not there yet"); }
__attribute__((weak)) const DistributedTable *dbscale_catalog_owner_of(Oid foreign_table, int *shard) { elog(ERROR, "dbscale_catalog_owner_of is not there yet"); }
__attribute__((weak)) bool dbscale_catalog_is_empty(void) { elog(ERROR, "dbscale_catalog_is_empty is not there yet"); }
__attribute__((weak)) const DistributedTable *dbscale_catalog_require_table(Oid relid) { elog(ERROR, "dbscale_catalog_require_table is not there yet"); }
__attribute__((weak)) const DistributedTable *dbscale_catalog_require_distributed(Oid relid) { elog(ERROR, "dbscale_catalog_require_distributed is not there yet"); }
__attribute__((weak)) const ShardNode *dbscale_catalog_require_node(const char *name, bool must_be_enabled) { elog(ERROR, "dbscale_catalog_require_node is not there yet"); }
__attribute__((weak)) void dbscale_catalog_changed(List *parents) { elog(ERROR, "dbscale_catalog_changed is not there yet"); }
__attribute__((weak)) const char *dbscale_strategy_name(ShardStrategy strategy) { elog(ERROR, "dbscale_strategy_name is not there yet"); }
__attribute__((weak)) void dbscale_catalog_init(void) {  }
__attribute__((weak)) int dbscale_route_key(const DistributedTable *table, Datum key, bool isnull) { elog(ERROR, "dbscale_route_key is not there yet"); }
__attribute__((weak)) int dbscale_route_any_key(const DistributedTable *table, Datum key, Oid type, bool isnull) { elog(ERROR, "dbscale_route_any_key is not there yet"); }
__attribute__((weak)) Datum dbscale_cast_key(const DistributedTable *table, Datum key, Oid type) { elog(ERROR, "dbscale_cast_key is not there yet"); }
__attribute__((weak)) char *dbscale_key_to_text(Oid type, Datum key) { elog(ERROR, "dbscale_key_to_text is not there yet"); }
__attribute__((weak)) Datum dbscale_key_from_text(Oid type, const char *text) { elog(ERROR, "dbscale_key_from_text is not there yet"); }
__attribute__((weak)) bool dbscale_type_is_hashable(Oid type) { elog(ERROR, "dbscale_type_is_hashable is not there yet"); }
__attribute__((weak)) uint32 dbscale_hash_key(Oid type, Oid collation, Datum key) { elog(ERROR, "dbscale_hash_key is not there yet"); }
__attribute__((weak)) Oid dbscale_routing_create_opfamily(int group_id, Oid key_type) { elog(ERROR, "dbscale_routing_create_opfamily is not there yet"); }
__attribute__((weak)) void dbscale_routing_drop_opfamily(int group_id) { elog(ERROR, "dbscale_routing_drop_opfamily is not there yet"); }
__attribute__((weak)) ShardLoader *dbscale_loader_begin(Relation rel, Oid userid) { elog(ERROR, "dbscale_loader_begin is not there yet"); }
__attribute__((weak)) void dbscale_loader_add(ShardLoader *loader, Oid foreign_table, TupleTableSlot *slot) { elog(ERROR, "dbscale_loader_add is not there yet"); }
__attribute__((weak)) void dbscale_loader_flush(ShardLoader *loader) { elog(ERROR, "dbscale_loader_flush is not there yet"); }
__attribute__((weak)) void dbscale_loader_end(ShardLoader *loader) { elog(ERROR, "dbscale_loader_end is not there yet"); }
__attribute__((weak)) void dbscale_executor_init(void) {  }
__attribute__((weak)) void dbscale_ddl_run_on_shards(const DistributedTable *table, const char *command) { elog(ERROR, "dbscale_ddl_run_on_shards is not there yet"); }
__attribute__((weak)) void dbscale_ddl_run_on_nodes(const char *command) { elog(ERROR, "dbscale_ddl_run_on_nodes is not there yet"); }
__attribute__((weak)) Oid dbscale_ddl_node_user(const ShardNode *node) { elog(ERROR, "dbscale_ddl_node_user is not there yet"); }
__attribute__((weak)) char *dbscale_ddl_shard_index_name(Oid relid, const char *index, int shard) { elog(ERROR, "dbscale_ddl_shard_index_name is not there yet"); }
__attribute__((weak)) char *dbscale_ddl_shard_table_name(const DistributedTable *table, int shard) { elog(ERROR, "dbscale_ddl_shard_table_name is not there yet"); }
__attribute__((weak)) char *dbscale_ddl_shard_index_sql(const DistributedTable *table, Oid index, int shard) { elog(ERROR, "dbscale_ddl_shard_index_sql is not there yet"); }
__attribute__((weak)) int dbscale_ddl_add_shard(Oid relation, const char *bounds_json, const char *node) { elog(ERROR, "dbscale_ddl_add_shard is not there yet"); }
__attribute__((weak)) void dbscale_ddl_copy_references_to(const ShardNode *node) { if (dbscale_ddl_query_value("SELECT 1 FROM dbscale.distributed_table WHERE group_id IS NULL") != NULL) elog(ERROR, "dbscale_ddl_copy_references_to is not there yet"); }
__attribute__((weak)) void dbscale_utility_init(void) {  }
__attribute__((weak)) void dbscale_worker_init(void) {  }
